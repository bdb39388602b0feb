"""What readers get wrong in the exercises of chapter 10, as functions, each with what to tell them."""

import torch
from torch import Tensor

from deeplab_lesson.data.palette import VOID
from deeplab_lesson.exercises.exercise import Misconception

FUSE_SCALES = (
    Misconception(
        lambda scores, attention: (attention[:, None] * scores).sum(dim=0),
        "You use the attention as it is. Its softmax over the scales makes weights that sum to 1 at each pixel.",
    ),
    Misconception(
        lambda scores, attention: (attention.flatten(1).softmax(dim=1).view_as(attention)[:, None] * scores).sum(dim=0),
        "Your softmax runs over the pixels. Here scales compete, at each pixel for itself: dim=0.",
    ),
    Misconception(
        lambda scores, attention: scores.mean(dim=0),
        "You give every scale the same weight. That is average fusion, which needs no attention.",
    ),
    Misconception(
        lambda scores, attention: scores.amax(dim=0),
        "You take the largest score of each class. That is max fusion, which needs no attention.",
    ),
    Misconception(
        lambda scores, attention: (attention.sigmoid()[:, None] * scores).sum(dim=0),
        "You weigh each scale by a sigmoid of its own: the weights of a pixel need not sum to 1 then.",
    ),
    Misconception(
        lambda scores, attention: (attention.softmax(dim=0)[:, None] * scores).mean(dim=0),
        "You divide by the number of scales once more: the weights sum to 1 already.",
    ),
)


def _keep(percent: Tensor, thresholds: list[int], void: int = VOID, *, strictly: bool = False) -> Tensor:
    most, classes = percent.max(dim=0)
    asked = torch.tensor(thresholds)[classes]
    return torch.where(most > asked if strictly else most >= asked, classes, void)


def _any_class_that_passes(percent: Tensor, thresholds: list[int]) -> Tensor:
    passes = percent >= torch.tensor(thresholds)[:, None, None]
    return torch.where(passes.any(dim=0), (percent * passes).argmax(dim=0), VOID)


KEEP_LABELS = (
    Misconception(
        lambda percent, thresholds: _keep(percent, thresholds, 0),
        "You call doubtful pixels 0, which is a class: the student would learn that they are background. Void is 255.",
    ),
    Misconception(
        lambda percent, thresholds: _keep(percent, thresholds, strictly=True),
        "You leave out pixels that have just their threshold: they are kept (>=).",
    ),
    Misconception(
        lambda percent, thresholds: percent.argmax(dim=0),
        "You keep every pixel. Where the teacher is in doubt, the label is 255.",
    ),
    Misconception(
        lambda percent, thresholds: _keep(percent, [max(thresholds)] * len(thresholds)),
        "You ask every pixel for the highest of all thresholds. Each class has its own.",
    ),
    Misconception(
        _any_class_that_passes,
        "You look for a class that reaches its threshold. Take the likeliest class first, then ask whether *it* does.",
    ),
)


def _matches(overlap: Tensor, predicted: Tensor, true: Tensor, least: float = 0.5) -> tuple[Tensor, int, int, int]:
    """IoU of the matches, and the numbers of TP, FP and FN."""
    iou = overlap / (predicted[:, None] + true - overlap)
    matched = iou > least
    found = int(matched.sum())
    return iou[matched], found, len(predicted) - found, len(true) - found


def _no_half(overlap: Tensor, predicted: Tensor, true: Tensor) -> float:
    iou, found, invented, missed = _matches(overlap, predicted, true)
    return float(iou.sum() / (found + invented + missed))


def _segmentation_quality(overlap: Tensor, predicted: Tensor, true: Tensor) -> float:
    return float(_matches(overlap, predicted, true)[0].mean())


def _recognition_quality(overlap: Tensor, predicted: Tensor, true: Tensor) -> float:
    _, found, invented, missed = _matches(overlap, predicted, true)
    return found / (found + invented / 2 + missed / 2)


def _every_overlap(overlap: Tensor, predicted: Tensor, true: Tensor) -> float:
    iou, found, invented, missed = _matches(overlap, predicted, true, 0.0)
    return float(iou.sum() / (found + max(invented, 0) / 2 + max(missed, 0) / 2))


def _only_missed(overlap: Tensor, predicted: Tensor, true: Tensor) -> float:
    iou, found, _, missed = _matches(overlap, predicted, true)
    return float(iou.sum() / (found + missed))


def _share_of_the_true(overlap: Tensor, predicted: Tensor, true: Tensor) -> float:
    share = overlap / true
    matched = share > 0.5
    found = int(matched.sum())
    return float(share[matched].sum() / (found + (len(predicted) + len(true) - 2 * found) / 2))


QUALITY_FROM_AREAS = (
    Misconception(_no_half, "You count what is left over in full. FP and FN count one half each, as in an F1 score."),
    Misconception(
        _segmentation_quality,
        "You return SQ, the mean IoU of the matches. What was invented and what was missed must count, too.",
    ),
    Misconception(_recognition_quality, "You return RQ: how well the matches fit is left out. Sum their IoUs."),
    Misconception(
        _every_overlap,
        "You match every two segments that touch. A match needs an IoU above 1/2: then it is the only one.",
    ),
    Misconception(
        _only_missed, "You forget the predicted segments that match nothing: inventing objects would cost nothing."
    ),
    Misconception(
        _share_of_the_true,
        "You divide by the area of the true segment. The IoU divides by the union, or a huge prediction would win.",
    ),
)


def _group(centers: Tensor, offset: Tensor, sign: float = 1.0, *, first: int = 1) -> Tensor:
    height, width = offset.shape[1:]
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    pointed = places + sign * offset.flatten(1).T
    return torch.cdist(pointed, centers).argmin(dim=1).view(height, width) + first


def _offsets_alone(centers: Tensor, offset: Tensor) -> Tensor:
    return torch.cdist(offset.flatten(1).T, centers).argmin(dim=1).view(offset.shape[1:]) + 1


GROUP_PIXELS = (
    Misconception(
        lambda centers, offset: _group(centers, offset, first=0),
        "You number the objects from 0. They begin with 1: 0 is where there is no object.",
    ),
    Misconception(
        lambda centers, offset: _group(centers, offset, -1.0),
        "You subtract the offset. It leads from the pixel to the center: add it to the pixel's place.",
    ),
    Misconception(
        lambda centers, offset: _group(centers, offset, 0.0),
        "You take the center that is nearest to the pixel. Nearest to where the pixel *points* is asked for.",
    ),
    Misconception(
        lambda centers, offset: _group(centers, offset.flip(0)),
        "You exchange down and right. offset[0] is down, like the row, and offset[1] to the right.",
    ),
    Misconception(
        _offsets_alone, "You compare the offsets with the centers. An offset counts from its own pixel: add the place."
    ),
)


def _fused(classes: Tensor, masks: Tensor) -> Tensor:
    return torch.einsum("qc,qhw->chw", classes, masks)


CLASSIFY_MASKS = (
    Misconception(
        lambda masks, classes: _fused(classes.softmax(dim=1), masks.sigmoid()),
        'You return a score for "no object", too: drop the last class.',
    ),
    Misconception(
        lambda masks, classes: _fused(classes[:, :-1].softmax(dim=1), masks.sigmoid()),
        'You drop "no object" before the softmax. Then a query that sees nothing must name a class all the same.',
    ),
    Misconception(
        lambda masks, classes: _fused(classes.softmax(dim=0)[:, :-1], masks.sigmoid()),
        "Your softmax runs over the queries. The classes of one query exclude each other: dim=1.",
    ),
    Misconception(
        lambda masks, classes: _fused(classes.softmax(dim=1)[:, :-1], masks.softmax(dim=0)),
        "You let the masks compete at each pixel. Here each mask is a yes or no of its own: sigmoid.",
    ),
    Misconception(
        lambda masks, classes: _fused(classes.softmax(dim=1)[:, :-1], masks),
        "You sum the masks' logits. Turn them into probabilities first: sigmoid.",
    ),
)
