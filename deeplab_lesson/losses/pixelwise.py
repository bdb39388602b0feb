"""Losses that are a sum over pixels: each pixel is judged alone.

They all take logits [N, C, H, W] (`binary_cross_entropy` takes [N, 1, H, W]) and labels int64 [N, H, W] of class ids
or `void`. Void pixels count nowhere; a batch in which every pixel is void gives 0 with a zero gradient, where torch's
own mean gives nan. All is computed in float32, also under autocast and for half-precision logits (float64 stays).
What they raise is said at `read_batch`.

Two arguments mean the same in each:

    class_weights: [C] ([2] in `binary_cross_entropy`); the mean is then a weighted one, as in torch.
    valid_pixels: what to divide by in place of the batch's own count, a single number: how many pixels are valid, or
        with class_weights the sum of the valid pixels' weights. For training on several processes, where it is the
        `count_valid_pixels` of all processes together, divided by the number of processes.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.data.palette import VOID
from deeplab_lesson.losses.batch import Batch, divide, read_batch


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    valid_pixels: Tensor | None = None,
    void: int = VOID,
) -> Tensor:
    """Mean over the valid pixels of -log softmax(logits)[label]. Arguments: see the module.

    Source: v1 section 3.1 (arXiv 1412.7062): every pixel weighs the same.
    """
    batch = read_batch(logits, labels, void, class_weights, valid_pixels)
    with torch.autocast(logits.device.type, enabled=False):
        return batch.mean(batch.cross_entropies(), valid_pixels)


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: float = 1 / 16,
    class_weights: Tensor | None = None,
    valid_pixels: Tensor | None = None,
    void: int = VOID,
) -> Tensor:
    """Cross entropy of the hard pixels alone (online hard example mining). Other arguments: see the module.

    A pixel is hard if the probability of its true class is below `threshold`. If these are fewer than the share
    `min_kept` of the valid pixels, that share with the lowest probabilities is kept, so that an easy batch still has
    a gradient. The mean is over the kept pixels. On several processes each keeps its own, and `valid_pixels` makes
    that mean count as much as the process has of the valid pixels.

    Args:
        threshold: 0 to 1; 1 keeps every pixel whose probability is not exactly 1.
        min_kept: 0 to 1; at least one pixel is kept, and 1 is plain cross entropy.

    Raises:
        ValueError: threshold or min_kept outside 0 to 1.

    Source: Shrivastava, Gupta, Girshick 2016 (arXiv 1604.03540); by pixel: Wu, Shen, van den Hengel 2016
    (arXiv 1604.04339).
    """
    if not (0 <= threshold <= 1 and 0 <= min_kept <= 1):
        raise ValueError(
            f"threshold={threshold}, min_kept={min_kept}: allowed are 0 to 1; one is a probability, the other a "
            "share of the valid pixels (not a number of pixels)"
        )
    batch = read_batch(logits, labels, void, class_weights, valid_pixels)
    with torch.autocast(logits.device.type, enabled=False):
        losses = batch.cross_entropies()
        probability = (-losses.detach()).exp()  # 1 where void, which sorts last
        fewest = (batch.valid.sum() * min_kept).ceil().long().clamp(min=1)
        bar = probability.flatten().sort().values.index_select(0, fewest - 1)  # [..] would wait for a GPU
        kept = (probability < threshold) | (probability <= bar)
        all_weights = batch.pixel_weights()
        weights = all_weights * kept
        loss = divide((losses * weights).sum(), weights.sum())
        return loss if valid_pixels is None else loss * divide(all_weights.sum(), valid_pixels)


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    class_weights: Tensor | None = None,
    valid_pixels: Tensor | None = None,
    void: int = VOID,
) -> Tensor:
    """Mean of -(1 - p)^gamma log p, p the true class's softmax probability. Other arguments: see the module.

    The factor turns down the pixels that are right already; with gamma=0 it is 1 and this is `cross_entropy`. The
    mean is over the valid pixels, not over the summed factors, and the article's alpha is `class_weights`.

    Raises:
        ValueError: gamma that is negative or not finite.

    Source: Lin, Goyal, Girshick, He, Dollár 2017 (arXiv 1708.02002), equations 4 and 5, with a softmax in place of
    the sigmoid.
    """
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma={gamma}: allowed are finite numbers from 0; 0 is cross entropy, the article takes 2")
    batch = read_batch(logits, labels, void, class_weights, valid_pixels)
    with torch.autocast(logits.device.type, enabled=False):
        return batch.mean((gamma * _log_wrong(batch)).exp() * batch.cross_entropies(), valid_pixels)


def _log_wrong(batch: Batch) -> Tensor:
    """log(1 - p) of each pixel [N, H, W]: finite, as is its gradient, where p rounds to 1."""
    others = batch.logits.scatter(1, batch.labels[:, None], -math.inf)
    return others.logsumexp(dim=1) - batch.logits.logsumexp(dim=1)


def binary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    valid_pixels: Tensor | None = None,
    void: int = VOID,
) -> Tensor:
    """Cross entropy for two classes from one channel, whose sigmoid is the probability of class 1.

    Equal to `cross_entropy` of the two channels (0, logits). One channel cannot tell more classes apart: VOC's 21
    need 21.

    Args:
        logits: [N, 1, H, W].
        labels: int64 [N, H, W] of 0, 1 or `void`.
        class_weights: [2]. Other arguments: see the module.
    """
    batch = read_batch(logits, labels, void, class_weights, valid_pixels, one_channel=True)
    with torch.autocast(logits.device.type, enabled=False):
        truth = batch.labels.to(batch.logits)
        losses = F.binary_cross_entropy_with_logits(batch.logits[:, 0], truth, reduction="none")
        return batch.mean(losses, valid_pixels)
