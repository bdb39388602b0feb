"""Weights that give rare classes more of the loss."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeplab_lesson.data.palette import VOID
from deeplab_lesson.data.transforms import as_tensor
from deeplab_lesson.layers.checks import check_holds_numbers, check_whole


def median_frequency_weights(labels: Iterable[Any], num_classes: int, *, void: int = VOID) -> Tensor:
    """Weigh each class by the median of the classes' frequencies over its own frequency.

    A class's frequency is its share of the valid pixels of those pictures that hold it. The class in the middle gets
    1, rarer ones more. A class that no picture holds gets 1 as well, and does not enter the median.

    Args:
        labels: label maps [H, W] of class ids or `void`, tensors or arrays of integers, read once; a tensor
            [N, H, W] is one such iterable.
        num_classes: C.

    Returns:
        float32 [C], for `class_weights` of the losses.

    Raises:
        TypeError: labels that are no integers.
        ValueError: ids without a class, no valid pixel at all, or num_classes that is no whole number from 1.

    Source: Eigen, Fergus 2015 (arXiv 1411.4734); SegNet (arXiv 1511.00561) uses it.
    """
    check_whole("num_classes", num_classes)
    pixels = torch.zeros(num_classes, dtype=torch.int64)
    image_pixels = torch.zeros_like(pixels)
    for label in labels:
        ids = as_tensor(label) if isinstance(label, np.ndarray) else torch.as_tensor(label)
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise TypeError(f"a label map is {ids.dtype}: allowed are integers, class ids or {void} (void)")
        check_holds_numbers("labels", ids)
        ids = ids[ids != void].cpu().long()
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= num_classes):
            wrong = sorted(set(ids.tolist()) - set(range(num_classes)))
            raise ValueError(
                f"labels hold the ids {wrong[:8]}: allowed are 0 to {num_classes - 1} and {void} (void); "
                "correct the labels or num_classes"
            )
        counts = torch.bincount(ids, minlength=num_classes)
        pixels += counts
        image_pixels += ids.numel() * (counts > 0)
    return median_frequency_weights_from_counts(pixels, image_pixels)


def median_frequency_weights_from_counts(pixels: Tensor, image_pixels: Tensor | None = None) -> Tensor:
    """Compute `median_frequency_weights` from counts that are there already.

    Args:
        pixels: [C], the valid pixels of each class.
        image_pixels: [C], the valid pixels of the pictures that hold the class. Without it every picture counts as
            holding every class: weights of a rare class that fills its few pictures are then higher.

    Returns:
        float32 [C].

    Raises:
        ValueError: counts of other shapes, negative or not finite, all zero, or more pixels than their pictures have.
    """
    if pixels.ndim != 1 or (image_pixels is not None and image_pixels.shape != pixels.shape):
        more = "" if image_pixels is None else f" and image_pixels {list(image_pixels.shape)}"
        raise ValueError(f"pixels are {list(pixels.shape)}{more}: allowed is [C], one count for each class")
    for counts in (pixels, *([] if image_pixels is None else [image_pixels])):
        check_holds_numbers("pixels", counts)
        if counts.is_complex():
            raise TypeError(f"pixels are {counts.dtype}: allowed are counts, such as int64")
    pixels = pixels.cpu().double()
    image_pixels = pixels.sum().expand_as(pixels) if image_pixels is None else image_pixels.cpu().double()
    fine = pixels.isfinite() & (pixels >= 0) & (pixels <= image_pixels)
    if not bool(fine.all()) or not bool(pixels.any()):
        raise ValueError(
            f"pixels are {pixels.tolist()} of {image_pixels.tolist()}: allowed are counts from 0, not all 0 (is "
            "every label void?), and none above the pixels of the pictures that hold the class"
        )
    present = pixels > 0
    frequency = pixels[present] / image_pixels[present]
    weights = torch.ones_like(pixels)
    weights[present] = frequency.quantile(0.5) / frequency  # torch's median of an even number takes the lower one
    return weights.float()
