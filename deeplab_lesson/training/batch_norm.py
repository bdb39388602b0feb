"""BatchNorm in two stages, and the momentum of its running statistics.

v3 trains in two stages (section 4.1): first at output stride 16, where a batch of 16 fits and BatchNorm's statistics
can be learned; then, at output stride 8, with BatchNorm frozen, since the batches that fit there are too small for it.
"""

from collections.abc import Iterator

from torch import nn


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that uses its running statistics and leaves them alone, also while its model trains."""

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":
        """Stay in eval mode, whatever is asked for."""
        return super().train(False)


def freeze_batch_norm(model: nn.Module, affine: bool = True) -> int:
    """Freeze every BatchNorm of a model in place: running statistics and, with `affine`, scale and shift.

    The layers stay where they are, with the names and tensors that they have, so that checkpoints fit as before.
    It lasts: `model.train()` does not thaw them, and a copy of the model is frozen too. Call it before the optimizer is
    built.

    Args:
        affine: False lets scale and shift train on.

    Returns:
        The number of layers that are frozen now.

    Raises:
        ValueError: a model without BatchNorm.

    Source: v3 section 4.1 (arXiv 1706.05587).
    """
    layers = list(_batch_norms(model))
    for layer in layers:
        layer.__class__ = FrozenBatchNorm2d  # not a new layer: whoever holds this one (optimizer, hooks) keeps it
        layer.train(False)
        if affine:
            layer.requires_grad_(False)
    return len(layers)


def set_batch_norm_momentum(model: nn.Module, momentum: float) -> int:
    """Set how far each training step moves the running statistics: new = (1 - momentum) old + momentum batch's.

    PyTorch's default is 0.1. The papers' 3e-4 fits runs of 30,000 steps: after 1000 steps 74 % of the initial
    statistics would still be left.

    Returns:
        The number of layers changed.

    Raises:
        ValueError: a momentum outside of (0, 1], or a model without BatchNorm.
    """
    if not 0 < momentum <= 1:
        raise ValueError(
            f"momentum={momentum}: allowed are numbers above 0 and at most 1, such as 0.1; TensorFlow's decay is "
            "1 minus it (momentum_from_decay)"
        )
    layers = list(_batch_norms(model))
    for layer in layers:
        layer.momentum = momentum
    return len(layers)


def momentum_from_decay(decay: float) -> float:
    """Translate TensorFlow's moving-average decay, the share of the old that is kept, into PyTorch's momentum.

    v3's "decay 0.9997" (section 4.1) is this one, of the statistics; it decays no parameter.

    Raises:
        ValueError: a decay outside of [0, 1).

    >>> round(momentum_from_decay(0.9997), 7)
    0.0003
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay={decay}: allowed are numbers from 0 up to, not including, 1, such as 0.9997")
    return 1 - decay


def _batch_norms(model: nn.Module) -> Iterator[nn.BatchNorm2d | nn.SyncBatchNorm]:
    """Every BatchNorm over maps."""
    found = [layer for layer in model.modules() if isinstance(layer, (nn.BatchNorm2d, nn.SyncBatchNorm))]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no BatchNorm: leave freeze_batch_norm and batch_norm_momentum out, or take a "
            "model that has it (a resnet, xception, mobilenet or mini one)"
        )
    yield from found
