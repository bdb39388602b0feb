"""The one place that resizes feature maps, logits and labels, and its one policy.

Policy: `align_corners=False`. A pixel is a small square and its value belongs to its center, so that a map at
output stride s covers the same area as the image, whatever the image's size. (The papers' TensorFlow code
puts the corner samples on top of each other instead, which asks for crops of s*k + 1: 321, 513, 769.)
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def resize_features(features: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a map [N, C, h, w] to [N, C, *size], bilinear."""
    if tuple(features.shape[2:]) == tuple(size):
        return features
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize class ids [H, W] or [N, H, W] to `size`, taking the nearest pixel and inventing no class.

    `nearest-exact` takes the pixel whose center is nearest. Plain `nearest` is shifted by up to half a pixel of
    the smaller grid: from 33 to 5 pixels it reads 0, 6, 13, 19, 26 instead of 3, 9, 16, 23, 29.
    """
    batched = labels if labels.ndim == 3 else labels[None]
    resized = F.interpolate(batched[:, None].float(), size=size, mode="nearest-exact")[:, 0].to(labels.dtype)
    return resized if labels.ndim == 3 else resized[0]
