"""A loss that looks only at where classes meet: are the edges of the answer those of the label?

No DeepLab was trained with one (v1 to v3+ take the cross entropy of pixels); it can be added to that.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.data.palette import VOID
from deeplab_lesson.layers.checks import check_whole
from deeplab_lesson.losses.batch import divide, read_batch


def edge_logits(logits: Tensor, distance: int = 1) -> tuple[Tensor, Tensor]:
    """Turn class logits into the log-odds of an edge between pixels; its sigmoid is the edge's probability.

    There is an edge between two pixels if their classes differ. With p and q their softmax probabilities, and each
    pixel's class drawn on its own, that happens with probability 1 - sum over classes of pq. Where the softmax is
    one-hot this is 1 or 0: the edges of a label map. It is computed from logarithms, so that a sure and wrong answer
    still has a gradient.

    Shapes:
        logits  [N, C, H, W], C at least 2
        output  [N, H, W - distance] between pixels that far apart in a row, [N, H - distance, W] in a column

    Raises:
        TypeError: logits that are no floats.
        ValueError: fewer than two channels, or a distance that is no whole number from 1.
    """
    if logits.ndim != 4 or logits.shape[1] < 2:
        raise ValueError(f"logits are {list(logits.shape)}: allowed are [N, C, H, W] with two classes or more")
    if not logits.is_floating_point():
        raise TypeError(f"logits are {logits.dtype}: allowed are floats, what the model returns before any softmax")
    check_whole("distance", distance, of="pixels")
    log_p = logits.log_softmax(dim=1)
    log_not_p = _log_complement(logits)
    pairs = []
    for axis in (3, 2):
        first, second = _pixels_apart(log_p, axis, distance)
        _, not_second = _pixels_apart(log_not_p, axis, distance)
        pairs.append((first + not_second).logsumexp(dim=1) - (first + second).logsumexp(dim=1))
    return pairs[0], pairs[1]


def _log_complement(logits: Tensor) -> Tensor:
    """log(1 - softmax(logits)), finite also where the softmax rounds to 1."""
    top = torch.zeros_like(logits, dtype=torch.bool).scatter(1, logits.argmax(dim=1, keepdim=True), True)
    others = logits.masked_fill(top, -torch.inf).logsumexp(dim=1, keepdim=True)
    of_top = others - logits.logsumexp(dim=1, keepdim=True)
    return torch.where(top, of_top, torch.log1p(-logits.softmax(dim=1).masked_fill(top, 0)))


def _pixels_apart(maps: Tensor, axis: int, distance: int) -> tuple[Tensor, Tensor]:
    """The first and the second pixels of all pairs that are `distance` apart along an axis."""
    pairs = max(maps.shape[axis] - distance, 0)
    return maps.narrow(axis, 0, pairs), maps.narrow(axis, maps.shape[axis] - pairs, pairs)


def edge_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    distance: int = 2,
    criterion: Literal["cross_entropy", "squared"] = "cross_entropy",
    reduction: Literal["mean", "sum"] = "mean",
    void: int = VOID,
) -> Tensor:
    """Compare the edges of the prediction with those of the labels, over all pairs of pixels `distance` apart.

    A pair stands in one row or one column, and has an edge if its classes differ (`edge_logits`). Pairs with a void
    pixel are left out. Where contours are void, as in VOC and in the scenes, no two classes touch: a distance within
    the contour's width finds no edge at all, and teaches only that objects have none inside.

    All is computed in float32, also under autocast (float64 stays). Without a valid pair the loss is 0, with a zero
    gradient.

    Args:
        logits: [N, C, H, W].
        labels: int64 [N, H, W] of class ids or `void`.
        distance: in pixels; one more than the width of void contours. 2 is right for the scenes, whose contours are
            one pixel wide, and 1 for labels without void.
        criterion: "cross_entropy" is -log of the probability that the two pixels' classes differ, or agree, as the
            labels' do. "squared" is half the squared difference of the edges' probabilities, 1/2 (predicted - true)².
        reduction: "mean" over the pairs, or their "sum".

    Raises:
        ValueError: a distance below 1, another criterion or reduction; inputs as in `read_batch`.
    """
    if criterion not in ("cross_entropy", "squared") or reduction not in ("mean", "sum"):
        raise ValueError(
            f"criterion={criterion!r}, reduction={reduction!r}: allowed are 'cross_entropy' and 'squared', "
            "'mean' and 'sum'"
        )
    batch = read_batch(logits, labels, void)
    with torch.autocast(logits.device.type, enabled=False):
        predicted = _flat(edge_logits(batch.logits, distance))
        labels_apart = [_pixels_apart(labels, axis, distance) for axis in (2, 1)]
        valid_apart = [_pixels_apart(batch.valid, axis, distance) for axis in (2, 1)]
        true = _flat(first != second for first, second in labels_apart).to(predicted)
        counted = _flat(first & second for first, second in valid_apart)
        if criterion == "cross_entropy":
            losses = F.binary_cross_entropy_with_logits(predicted, true, reduction="none")
        else:
            losses = (predicted.sigmoid() - true) ** 2 / 2
        total = (losses * counted).sum()
        return total if reduction == "sum" else divide(total, counted.sum())


def _flat(pairs: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in pairs])
