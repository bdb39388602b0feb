"""What readers get wrong in the exercises of chapter 1, as functions, each with what to tell them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.data.palette import VOID
from deeplab_lesson.exercises.exercise import Misconception

# ---- palette -------------------------------------------------------------------------------------------------------


def _bits(color: list[int], levels: int = 8) -> int:
    pairs = [(level, channel) for level in range(levels) for channel in range(3)]
    return sum((color[channel] >> 7 - level & 1) << 3 * level + channel for level, channel in pairs)


def _lowest_first(color: list[int]) -> int:
    pairs = [(level, channel) for level in range(8) for channel in range(3)]
    return sum((color[channel] >> level & 1) << 3 * level + channel for level, channel in pairs)


def _channel_by_channel(color: list[int]) -> int:
    pairs = [(level, channel) for level in range(8) for channel in range(3)]
    return sum((color[channel] >> 7 - level & 1) << 8 * channel + level for level, channel in pairs)


PALETTE_ID = (
    Misconception(
        lambda color: _bits(color[::-1]),
        "You take red for blue. OpenCV reads a file in the order blue, green, red; here red is first.",
    ),
    Misconception(
        lambda color: _bits(color, levels=1),
        "You read the highest bit of each channel only: that is the first group of three bits, for ids below 8.",
    ),
    Misconception(
        _lowest_first,
        "You read a channel from its lowest bit, 1. The first group of the id sets the highest, 128.",
    ),
    Misconception(
        _channel_by_channel,
        "You keep the bits of a channel together. In the id they alternate: red, green, blue, red, green, blue.",
    ),
    Misconception(
        lambda color: round(0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]),
        "That is the brightness of the color, what `convert('L')` gives. The id is in the bits.",
    ),
)

# ---- confusion matrix ----------------------------------------------------------------------------------------------


def _count(truth: Tensor, answer: Tensor, num_classes: int) -> Tensor:
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for pair in zip(truth.flatten().tolist(), answer.flatten().tolist(), strict=True):
        if pair[0] != VOID:
            counts[pair] += 1
    return counts


def _shares_of_rows(truth: Tensor, answer: Tensor, num_classes: int) -> Tensor:
    counts = _count(truth, answer, num_classes)
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


CONFUSION_MATRIX = (
    Misconception(
        lambda truth, answer, num_classes: _count(truth, answer, num_classes).T,
        "Your matrix is transposed: the true class is the row, and the answered class the column.",
    ),
    Misconception(
        lambda truth, answer, num_classes: _count(truth.masked_fill(truth == VOID, 0), answer, num_classes),
        "You count void as class 0, the background. It is not asked about, so it counts nowhere.",
    ),
    Misconception(
        lambda truth, answer, num_classes: _count(torch.where(truth == VOID, answer, truth), answer, num_classes),
        "You count a void pixel as right. Whatever was answered there, it counts nowhere.",
    ),
    Misconception(
        _shares_of_rows,
        "You divide each row by its sum. Return counts: those of several pictures can be added, shares cannot.",
    ),
    Misconception(
        lambda truth, answer, num_classes: (_count(truth, answer, num_classes) > 0).long(),
        "You mark which pairs occur. `counts[truth, answer] += 1` does that: of equal pairs it adds only one.",
    ),
)

# ---- mean IoU ------------------------------------------------------------------------------------------------------


def _iou(counts: Tensor) -> Tensor:
    """IoU by class, nan for a class that does not occur."""
    return counts.diag() / (counts.sum(0) + counts.sum(1) - counts.diag())


def _mean_where(values: Tensor, keep: Tensor) -> float:
    return float(values[keep].mean())


MEAN_IOU = (
    Misconception(
        lambda counts: float(_iou(counts).nan_to_num(0).mean()),
        "You count a class that occurs nowhere with IoU 0. Nothing was missed: leave it out of the mean.",
    ),
    Misconception(
        lambda counts: float(_iou(counts).nan_to_num(1).mean()),
        "You count a class that occurs nowhere with IoU 1. Nothing was found: leave it out of the mean.",
    ),
    Misconception(
        lambda counts: _mean_where(_iou(counts), counts.sum(1) > 0),
        "You leave out classes that are only answered. Those are false alarms: IoU 0, and they stay in the mean.",
    ),
    Misconception(
        lambda counts: float(counts.diag().sum() / counts.sum()),
        "That is pixel accuracy: the diagonal over all pixels, where large classes decide.",
    ),
    Misconception(
        lambda counts: float((counts.diag() / counts.sum(1)).nanmean()),
        "That is mean accuracy: it divides by the row only, so false alarms, the column, cost nothing.",
    ),
    Misconception(
        lambda counts: float((2 * counts.diag() / (counts.sum(0) + counts.sum(1))).nanmean()),
        "That is Dice: two times the intersection, over the sum of both sets. IoU divides by the union.",
    ),
    Misconception(
        lambda counts: float((counts.diag() / (counts.sum(0) + counts.sum(1))).nanmean()),
        "Row + column counts the intersection twice: subtract the diagonal once.",
    ),
)

# ---- trimap --------------------------------------------------------------------------------------------------------


def _band(labels: Tensor, rows: int, columns: int, padding: int | None = None) -> Tensor:
    """1 where the window of so many pixels to each side holds another label; beyond the edge nothing, or `padding`."""
    ids = labels[None, None].double()
    sizes = [columns, columns, rows, rows]
    high, low = (F.pad(ids, sizes, value=outside if padding is None else padding) for outside in (-1, 999))
    window = 2 * rows + 1, 2 * columns + 1
    return (F.max_pool2d(high, window, 1) != -F.max_pool2d(-low, window, 1))[0, 0].long()


def _void_ignored(labels: Tensor, width: int) -> Tensor:
    ids = labels[None, None].double()
    high, low = ids.masked_fill(ids == VOID, -1), ids.masked_fill(ids == VOID, 999)
    side = 2 * width + 1
    high, low = F.max_pool2d(high, side, 1, width), -F.max_pool2d(-low, side, 1, width)
    return ((high > low) & (ids != VOID))[0, 0].long()


BOUNDARY_BAND = (
    Misconception(
        lambda labels, width: _band(labels, width, width) * (labels != 0),
        "Your band lies on one side only, inside of objects. The background's pixels near a contour belong to it, too.",
    ),
    Misconception(
        lambda labels, width: _band(labels, width - 1, width - 1),
        "Your square is one pixel too small on each side. At width 1 it is 3 x 3.",
    ),
    Misconception(
        lambda labels, width: _band(labels, width + 1, width + 1),
        "Your square is one pixel too large on each side. At width 1 it is 3 x 3.",
    ),
    Misconception(
        lambda labels, width: _band(labels, width, 0) | _band(labels, 0, width),
        "You look along the row and the column only: a cross. The square has corners.",
    ),
    Misconception(
        lambda labels, width: _band(labels, width, width, padding=-1),
        "You count the edge of the picture as a contour. Beyond it nothing is known: the square ends there.",
    ),
    Misconception(
        _void_ignored,
        "You leave void out. In VOC a line of void runs along contours, so the band is around it, too.",
    ),
    Misconception(
        lambda labels, width: 1 - _band(labels, width, width),
        "You mark the rest. 1 is for pixels in the band, and 0 for those far from every contour.",
    ),
)

# ---- names for regions ---------------------------------------------------------------------------------------------


def _vote(regions: Tensor, labels: Tensor, no_votes: int = VOID) -> Tensor:
    named = torch.full_like(labels, no_votes)
    for region in torch.unique(regions):
        inside = regions == region
        votes = labels[inside & (labels != VOID)]
        if len(votes):
            named[inside] = votes.bincount().argmax()
    return named


def _each_region(regions: Tensor, labels: Tensor, name: str) -> Tensor:
    named = torch.full_like(labels, VOID)
    for region in torch.unique(regions):
        inside = regions == region
        votes = labels[inside & (labels != VOID)]
        if len(votes):
            choice = {"mean": votes.double().mean().round(), "highest": votes.max(), "first": votes[0]}[name]
            named[inside] = choice.long()
    return named


def _void_votes(regions: Tensor, labels: Tensor) -> Tensor:
    named = torch.zeros_like(labels)
    for region in torch.unique(regions):
        named[regions == region] = labels[regions == region].bincount().argmax()
    return named


NAME_REGIONS = (
    Misconception(
        _void_votes,
        "Void votes in your function: where it is most frequent, the region becomes void.",
    ),
    Misconception(
        lambda regions, labels: _void_votes(regions, labels.masked_fill(labels == VOID, 0)),
        "Void votes for class 0, the background. It has no vote.",
    ),
    Misconception(
        lambda regions, labels: _vote(regions, labels, no_votes=0),
        "A region without a vote becomes background. `argmax` of counts that are all 0 is 0; it has to stay void.",
    ),
    Misconception(
        lambda regions, labels: _vote(regions, labels).masked_fill(labels == VOID, VOID),
        "Void pixels stay void in your map. They have no vote, and they get the name of their region.",
    ),
    Misconception(
        lambda regions, labels: _each_region(regions, labels, "mean"),
        "You take the mean of the ids. Ids are names: between a disk (1) and a square (3) there is no ring (2).",
    ),
    Misconception(
        lambda regions, labels: _each_region(regions, labels, "highest"),
        "You take the highest id. It is the most frequent one that names the region.",
    ),
    Misconception(
        lambda regions, labels: _each_region(regions, labels, "first"),
        "You take the first pixel that is not void. All pixels of the region vote.",
    ),
)
