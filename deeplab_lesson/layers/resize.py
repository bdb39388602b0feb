"""The one place that resizes feature maps, logits and labels, and its one policy.

Policy: `align_corners=False`. A pixel is a small square and its value belongs to its center, so that a map at
output stride s covers the same area as the image, whatever the image's size. (The papers' TensorFlow code
puts the corner samples on top of each other instead, which asks for crops of s*k + 1: 321, 513, 769.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.layers.checks import check_class_ids, check_features, check_size
from deeplab_lesson.layers.one_call import kept_as_one_call


@kept_as_one_call
def resize_features(features: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a map [N, C, h, w] to [N, C, *size], bilinear.

    Raises:
        TypeError: features that are no floats.
        ValueError: features of another rank or empty, a size that is not two whole numbers from 1.
    """
    # A compiled or exported program must serve every size, so it always interpolates: at its own size a map stays.
    if not torch.compiler.is_compiling():
        check_features(features)
        check_size("size", size)
        if tuple(features.shape[2:]) == tuple(size):
            return features
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


@kept_as_one_call
def repeat_features(features: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge a map [N, C, h, w] to [N, C, *size] by repeating its positions: FPN's "nearest, by two".

    For sizes 2 h and 2 h - 1 it is every position twice, cropped at the end: 0 0 1 1 2 2 ... That is how a 3x3 of
    stride 2 made the small map (its position i stands on 2 i of the large one), so `nearest`, not `nearest-exact`.
    """
    return F.interpolate(features, size=tuple(size), mode="nearest")


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize class ids [H, W] or [N, H, W] to `size`, taking the nearest pixel and inventing no class.

    `nearest-exact` takes the pixel whose center is nearest. Plain `nearest` is shifted by up to half a pixel of
    the smaller grid: from 33 to 5 pixels it reads 0, 6, 13, 19, 26 instead of 3, 9, 16, 23, 29.

    Raises:
        TypeError: labels that are no integers.
        ValueError: labels of another rank or empty, a size that is not two whole numbers from 1.
    """
    check_class_ids("labels", labels, "[H, W] or [N, H, W]", (2, 3))
    check_size("size", size)
    batched = labels if labels.ndim == 3 else labels[None]
    resized = F.interpolate(batched[:, None].float(), size=size, mode="nearest-exact")[:, 0].to(labels.dtype)
    return resized if labels.ndim == 3 else resized[0]


@kept_as_one_call
def crop_corner(features: Tensor, size: Sequence[int]) -> Tensor:
    """Keep the top left `size` of a map: what is left over where halving rounded up and doubling does not.

    Raises:
        ValueError: features of another rank or empty, a size that is not two whole numbers from 1.
    """
    if not torch.compiler.is_compiling():
        check_features(features)
        check_size("size", size)
    return features[:, :, : size[0], : size[1]]


@kept_as_one_call
def shrink(images: Tensor, scale: float) -> Tensor:
    """The images at `scale` times their size, bilinear; half a pixel counts as one: 513 becomes 257."""
    height, width = (int(side * scale + 0.5) for side in images.shape[2:])
    return resize_features(images, (height, width))
