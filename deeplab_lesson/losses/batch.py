"""What every loss does first and last: look at its inputs, and take the mean over the pixels that count."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.data.palette import VOID
from deeplab_lesson.layers.checks import check_class_ids, check_holds_numbers, check_one_device

_TINY = 1e-12  # a divisor of 0 becomes this: an all-void batch gives 0 / _TINY = 0 with a zero gradient


class Batch(NamedTuple):
    """Checked inputs of a loss, the logits in float32 or float64."""

    logits: Tensor  # [N, C, H, W]
    labels: Tensor  # int64 [N, H, W], class 0 where void
    valid: Tensor  # bool [N, H, W]
    class_weights: Tensor | None  # [C]

    def cross_entropies(self) -> Tensor:
        """Compute -log softmax(logits)[label] of each pixel [N, H, W], 0 where void."""
        labels = self.labels.masked_fill(~self.valid, -1)
        return F.cross_entropy(self.logits, labels, ignore_index=-1, reduction="none")

    def pixel_weights(self) -> Tensor:
        """Look up the weight of each pixel's class [N, H, W]: 0 where void, otherwise 1 without class weights."""
        return _pixel_weights(self.labels, self.valid, self.class_weights).to(self.logits)

    def mean(self, values: Tensor, valid_pixels: Tensor | None = None) -> Tensor:
        """Weighted mean of values [N, H, W] over the valid pixels, or their weighted sum over `valid_pixels`."""
        weights = self.pixel_weights()
        return divide((values * weights).sum(), weights.sum() if valid_pixels is None else valid_pixels)

    def truth(self) -> Tensor:
        """Mark each class's pixels: bool [N, C, H, W], all False where void."""
        classes = torch.arange(self.logits.shape[1], device=self.labels.device)[:, None, None]
        return (self.labels[:, None] == classes) & self.valid[:, None]


def divide(total: Tensor, count: Tensor) -> Tensor:
    """total / count, and 0 with a zero gradient where nothing was counted."""
    return total / count.to(total).clamp(min=_TINY)


def count_valid_pixels(labels: Tensor, class_weights: Tensor | None = None, *, void: int = VOID) -> Tensor:
    """Count what the pixelwise losses divide by: the pixels that are not void, or their summed class weights.

    For training on several processes: the loss of each process, divided by this count summed over all processes
    and divided by their number, has the gradient of one process with all the pictures, once DDP has taken its
    mean. Divided by its own count, a process whose pictures are mostly void would pull as hard as the others.

    Args:
        labels: int64 [N, H, W].
        class_weights: [C].

    Returns:
        float32, a single number on the labels' device.

    Raises:
        TypeError: labels that are no integers, weights that are no tensor.
        ValueError: labels of another rank; weights as in `read_batch`; on a CPU ids without a weight.
    """
    check_class_ids("labels", labels, "[N, H, W]", (3,))
    valid = labels != void
    if class_weights is not None:
        _check_class_weights(class_weights)
        _check_ids(labels, valid, len(class_weights), void, "there is no weight for others")
    return _pixel_weights(labels.masked_fill(~valid, 0), valid, class_weights).sum().float()


def _pixel_weights(labels: Tensor, valid: Tensor, class_weights: Tensor | None) -> Tensor:
    return valid if class_weights is None else class_weights.to(labels.device)[labels.long()] * valid


def read_batch(
    logits: Tensor,
    labels: Tensor,
    void: int,
    class_weights: Tensor | None = None,
    valid_pixels: Tensor | None = None,
    *,
    one_channel: bool = False,
) -> Batch:
    """Check the inputs of a loss, and raise half-precision logits to float32.

    Args:
        logits: [N, C, H, W], or [N, 1, H, W] for two classes with `one_channel`.
        labels: int64 [N, H, W].
        class_weights: [C].
        valid_pixels: a single number.

    Raises:
        TypeError: labels that are not int64, logits that are no floats, weights that are no tensor.
        ValueError: sizes, channels or devices that do not fit; on a CPU also label ids without a class, and weights
            that are negative, not finite or all zero (on a GPU looking would make it wait).
    """
    if logits.ndim != 4 or logits.shape[:1] + logits.shape[2:] != labels.shape:
        raise ValueError(
            f"logits are {list(logits.shape)} and labels {list(labels.shape)}: allowed are [N, C, H, W] and "
            "[N, H, W]; resize the logits to the labels' size (resize_features)"
        )
    if labels.dtype != torch.int64:
        raise TypeError(f"labels are {labels.dtype}: allowed is int64 (class ids, {void} for void); use labels.long()")
    if not logits.is_floating_point():
        raise TypeError(f"logits are {logits.dtype}: allowed are floats, what the model returns before any softmax")
    check_one_device("logits", logits, "labels", labels)
    channels = logits.shape[1]
    if (channels == 1) != one_channel:
        raise ValueError(
            f"logits have {channels} channel(s): binary_cross_entropy takes one, for two classes; every other loss "
            "takes one for each class, at least two (the softmax of one is always 1)"
        )
    classes = 2 if one_channel else channels
    valid = labels != void
    reason = f"since the logits have {channels} channels; correct the labels, or build the model with more classes"
    _check_ids(labels, valid, classes, void, reason)
    if class_weights is not None:
        _check_class_weights(class_weights, classes)
    elsewhere = valid_pixels is not None and valid_pixels.is_meta and not logits.is_meta
    if valid_pixels is not None and (valid_pixels.numel() != 1 or valid_pixels.is_complex() or elsewhere):
        raise ValueError(
            f"valid_pixels are {valid_pixels.dtype} {list(valid_pixels.shape)}: allowed is a tensor of one number; use "
            "count_valid_pixels(labels)"
        )
    if logits.dtype != torch.float64:
        logits = logits.float()
    weights = None if class_weights is None else class_weights.to(logits)
    return Batch(logits, labels.masked_fill(~valid, 0), valid, weights)


def _check_ids(labels: Tensor, valid: Tensor, classes: int, void: int, reason: str) -> None:
    """Refuse ids without a class, on a CPU alone: a look would make a GPU wait, and break a compiled program."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if bool(((labels < 0) | (labels >= classes))[valid].any()):
        wrong = sorted(set(labels[valid].tolist()) - set(range(classes)))
        raise ValueError(f"labels hold the ids {wrong[:8]}: allowed are 0 to {classes - 1} and {void} (void), {reason}")


def _check_class_weights(weights: Tensor, classes: int | None = None) -> None:
    if not isinstance(weights, Tensor):
        raise TypeError(f"class_weights are a {type(weights).__name__}: allowed is a tensor; use torch.tensor(...)")
    if weights.ndim != 1 or classes not in (None, len(weights)):
        allowed = "C" if classes is None else classes
        raise ValueError(f"class_weights are {list(weights.shape)}: allowed is [{allowed}], one for each class")
    check_holds_numbers("class_weights", weights)
    if weights.is_complex() or weights.dtype == torch.bool:
        raise TypeError(f"class_weights are {weights.dtype}: allowed are floats, such as torch.ones({len(weights)})")
    if weights.device.type != "cpu":
        return
    if not bool((weights.isfinite() & (weights >= 0)).all()) or not bool(weights.any()):
        raise ValueError(
            f"class_weights are {[round(weight, 6) for weight in weights.tolist()]}: allowed are finite numbers from "
            "0, not all 0 (a class of weight 0 is not learned)"
        )
