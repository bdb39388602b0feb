"""Random logits and labels, and every loss with what it takes, for the tests of the losses."""

import torch

from deeplab_lesson.losses import (
    binary_cross_entropy,
    cross_entropy,
    dice_loss,
    edge_loss,
    focal_loss,
    lovasz_softmax,
    ohem_cross_entropy,
)

VOID = 255
PIXELWISE = [cross_entropy, ohem_cross_entropy, focal_loss, binary_cross_entropy]
OVERLAP = [dice_loss, lovasz_softmax]
EVERY = [*PIXELWISE, *OVERLAP, edge_loss]
WEIGHTED = [*PIXELWISE, *OVERLAP]


def channels_of(loss: object) -> int:
    return 1 if loss is binary_cross_entropy else 5


def classes_of(loss: object) -> int:
    return max(2, channels_of(loss))


def batch(
    channels: int = 5,
    size: tuple[int, int, int] = (2, 6, 7),
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    void_share: float = 0.3,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, channels, H, W] and labels [N, H, W]; one channel stands for two classes."""
    generator = torch.Generator().manual_seed(seed)
    pictures, height, width = size
    logits = 3 * torch.randn(pictures, channels, height, width, generator=generator, dtype=dtype)
    labels = torch.randint(0, max(2, channels), size, generator=generator)
    labels[torch.rand(size, generator=generator) < void_share] = VOID
    return logits, labels


def one_hot_logits(classes: torch.Tensor, num_classes: int, height: float = 1e4) -> torch.Tensor:
    """Logits [N, C, H, W] whose softmax is exactly 1 at the given class ids [N, H, W]."""
    return height * torch.nn.functional.one_hot(classes, num_classes).movedim(-1, 1).float()
