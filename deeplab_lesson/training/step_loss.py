"""The loss of one training step: which outputs of a model are scored, at which pixels, by which losses."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from deeplab_lesson.layers.checks import check_whole
from deeplab_lesson.losses import combine
from deeplab_lesson.models.panoptic_instances import CENTER_SIGMA, panoptic_loss_terms, panoptic_targets

# What a further output of `forward_heads` weighs beside "out", by the first word of its name. Others, such as the
# weights of attention to scale, are no scores.
AUXILIARY_WEIGHTS = {
    "aux": 0.4,  # PSPNet (arXiv 1612.01105); torchvision trains its v3 with 0.5
    "scale": 1.0,  # v2 and attention to scale sum one cross-entropy a scale
}


class StepLoss:
    """The losses of a training, summed over a model's outputs.

    Args:
        losses: names with their factors, as `parse_losses` reads them.
        class_weights: [C], for the losses that take them.
        label_stride: score every so-manieth pixel only (`subsample`).
        auxiliary_weight: of every further output; None takes that of its kind, 0 leaves them out.
        center_sigma: of the Gaussians on the centers of objects, in pixels.

    Raises:
        ValueError: an unknown loss (the nearest names are offered), a factor that is no number.
    """

    def __init__(
        self,
        losses: Sequence[str] = ("cross_entropy",),
        *,
        class_weights: Tensor | None = None,
        label_stride: int = 1,
        auxiliary_weight: float | None = None,
        center_sigma: float = CENTER_SIGMA,
    ) -> None:
        check_whole("label_stride", label_stride)
        self.loss = combine(parse_losses(losses), class_weights=class_weights)
        self.label_stride, self.auxiliary_weight = label_stride, auxiliary_weight
        self.center_sigma = center_sigma

    def __call__(
        self,
        heads: Mapping[str, Tensor],
        labels: Tensor,
        instances: Tensor | None = None,
        *,
        valid_pixels: Tensor | None = None,
    ) -> Tensor:
        """Score what `forward_heads` returned.

        Args:
            labels: int64 [N, H, W].
            instances: integers [N, H, W], 0 where there is no object; where a model predicts objects (outputs "center"
                and "offset") and the data has them. On the CPU: what the outputs shall say is drawn object by object.
            valid_pixels: what to divide by instead of the batch's own number of valid pixels, counted at
                `label_stride`: in a training on several processes their sum over all, divided by their number.
        """
        scored = subsample(labels, self.label_stride)
        total = torch.zeros((), device=labels.device)
        for name, weight in self.weights(heads).items():
            logits = subsample(heads[name], self.label_stride)
            total = total + weight * self.loss(logits, scored, valid_pixels=valid_pixels)
        if instances is not None and "center" in heads:
            targets = panoptic_targets(instances, sigma=self.center_sigma)
            targets = {name: target.to(labels.device) for name, target in targets.items()}
            terms = panoptic_loss_terms(heads, labels, targets)
            total = total + terms["center"] + terms["offset"]
        return total

    def weights(self, heads: Mapping[str, Tensor]) -> dict[str, float]:
        """How much each output's loss weighs; outputs that are no scores of classes are left out."""
        weights = {"out": 1.0}
        for name in heads:
            kind = name.partition("_")[0]
            if kind in AUXILIARY_WEIGHTS:
                given = self.auxiliary_weight
                weights[name] = AUXILIARY_WEIGHTS[kind] if given is None else given
        return {name: weight for name, weight in weights.items() if weight > 0}


def subsample(maps: Tensor, stride: int) -> Tensor:
    """Take every stride-th pixel of [..., H, W], at the middle of its cell of stride x stride pixels.

    Where the sides are multiples of the stride, the labels are those of `resize_labels` to 1 / stride of the size
    (nearest-exact). The logits are the network's own at this output stride, before they were enlarged: exactly for an
    odd stride; for an even one a cell has no middle pixel, and 1 / (2 stride) of the neighbors' logits is mixed in,
    down and across.

    So v1 and v2 score, with a stride of 8 (v1 section 3.1). v3 (section 4.1) enlarges the logits instead and keeps
    every label, as thin things are lost between the samples: 77.21 against 76.01 % mean IoU on VOC's validation set.
    """
    if stride == 1:
        return maps
    if maps.ndim < 3:
        raise ValueError(f"logits or labels are {list(maps.shape)}: allowed are [N, C, H, W] and [N, H, W]")
    first = stride // 2
    return maps[..., first::stride, first::stride]


def parse_losses(losses: Sequence[str]) -> dict[str, float]:
    """Read losses as the command line has them: names, each with =FACTOR where that is not 1.

    Raises:
        ValueError: no loss, one twice, a factor that is no number.

    >>> parse_losses(["cross_entropy", "dice=0.5"])
    {'cross_entropy': 1.0, 'dice': 0.5}
    """
    if not all(isinstance(word, str) for word in losses):
        raise ValueError(
            f"losses={losses!r}: allowed are texts, NAME or NAME=FACTOR, such as ('cross_entropy', 'dice=0.5')"
        )
    if isinstance(losses, str):
        raise ValueError(f"losses={losses!r} is one text: give a tuple of texts, such as ({losses!r},)")
    factors: dict[str, float] = {}
    for word in losses:
        name, equals, number = word.partition("=")
        try:
            factor = float(number) if equals else 1.0
        except ValueError:
            raise ValueError(f"losses holds {word!r}: write NAME or NAME=FACTOR, such as dice=0.5") from None
        if name in factors:
            raise ValueError(f"losses holds {name!r} twice: give each loss once, with one factor")
        factors[name] = factor
    return factors
