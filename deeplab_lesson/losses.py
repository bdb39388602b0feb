"""Losses: logits in, void ignored, mean over the pixels that count."""

from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.data.palette import VOID


def cross_entropy(logits: Tensor, labels: Tensor, *, class_weights: Tensor | None = None, void: int = VOID) -> Tensor:
    """Mean over the valid pixels of -log softmax(logits)[label].

    Computed in float32 also under autocast. A batch in which every pixel is void gives 0 with a zero gradient,
    where torch's own mean gives nan.

    Args:
        logits: [N, C, H, W].
        labels: int64 [N, H, W], class ids or `void`.
        class_weights: [C]; the mean is then weighted, as in torch.

    Raises:
        ValueError: logits and labels of different sizes.

    Source: v1 section 3.1 (arXiv 1412.7062): every pixel weighs the same.
    """
    if logits.shape[:1] + logits.shape[2:] != labels.shape:
        raise ValueError(
            f"logits are {list(logits.shape)} and labels {list(labels.shape)}: allowed are [N, C, H, W] and "
            "[N, H, W]; resize the logits to the labels' size (resize_features)"
        )
    weights = None if class_weights is None else class_weights.to(logits.device, logits.dtype).float()
    total = F.cross_entropy(logits.float(), labels, weight=weights, ignore_index=void, reduction="sum")
    valid = labels != void
    count = valid.sum().float() if weights is None else (weights[labels * valid] * valid).sum()
    return total / count.clamp(min=1e-12)
