"""Losses: logits in, void ignored, mean over the pixels that count."""

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.data.palette import VOID


def cross_entropy(logits: Tensor, labels: Tensor, *, class_weights: Tensor | None = None, void: int = VOID) -> Tensor:
    """Mean over the valid pixels of -log softmax(logits)[label].

    Computed in float32 also under autocast and for half-precision logits (float64 stays). A batch in which every
    pixel is void gives 0 with a zero gradient, where torch's own mean gives nan.

    Args:
        logits: [N, C, H, W].
        labels: int64 [N, H, W], class ids or `void`.
        class_weights: [C]; the mean is then weighted, as in torch.

    Raises:
        TypeError: labels that are not int64.
        ValueError: logits and labels of different sizes; on a CPU also label ids that no channel stands for
            (on a GPU looking would make it wait).

    Source: v1 section 3.1 (arXiv 1412.7062): every pixel weighs the same.
    """
    if logits.shape[:1] + logits.shape[2:] != labels.shape:
        raise ValueError(
            f"logits are {list(logits.shape)} and labels {list(labels.shape)}: allowed are [N, C, H, W] and "
            "[N, H, W]; resize the logits to the labels' size (resize_features)"
        )
    if labels.dtype != torch.int64:
        raise TypeError(f"labels are {labels.dtype}: allowed is int64 (class ids, {void} for void); use labels.long()")
    valid = labels != void
    if labels.device.type == "cpu" and bool(((labels < 0) | (labels >= logits.shape[1]))[valid].any()):
        wrong = sorted(set(labels[valid].tolist()) - set(range(logits.shape[1])))
        raise ValueError(
            f"labels hold the ids {wrong[:8]}: allowed are 0 to {logits.shape[1] - 1} and {void} (void), since the "
            f"logits have {logits.shape[1]} channels; correct the labels, or build the model with more classes"
        )
    if logits.dtype != torch.float64:
        logits = logits.float()
    weights = None if class_weights is None else class_weights.to(logits)
    with torch.autocast(logits.device.type, enabled=False):
        total = F.cross_entropy(logits, labels, weight=weights, ignore_index=void, reduction="sum")
    count = valid.sum().to(logits) if weights is None else (weights[labels * valid] * valid).sum()
    return total / count.clamp(min=1e-12)
