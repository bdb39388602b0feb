"""Exercises of chapter 1, segmentation: references, inputs, judges and hints."""

import math

import torch
from torch import Tensor

from deeplab_lesson.data.palette import VOC_PALETTE, VOID
from deeplab_lesson.exercises import mistakes01
from deeplab_lesson.exercises.draw import Draw
from deeplab_lesson.exercises.exercise import Chapter, Exercise, WrongAnswer
from deeplab_lesson.exercises.judging import real_number, same_tensor, whole_number
from deeplab_lesson.metrics import ConfusionMatrix, trimap_band

# ---- palette -------------------------------------------------------------------------------------------------------


def palette_id(color: list[int]) -> int:
    """Return the id, 0 to 255, that has this color [red, green, blue] in VOC's palette."""
    class_id = 0
    for level in range(8):
        for channel in range(3):
            bit = color[channel] >> (7 - level) & 1
            class_id += bit << (3 * level + channel)
    return class_id


def _draw_palette_id(draw: Draw) -> tuple[list[int]]:
    return (VOC_PALETTE[draw.whole(1, draw.choice((20, VOID)))].tolist(),)


def _judge_palette_id(answer: object, color: list[int]) -> None:
    class_id = VOC_PALETTE.tolist().index(color)
    if whole_number(answer) != class_id:
        raise WrongAnswer(f"you return {whole_number(answer)}; the color is that of {class_id}, in binary {class_id:b}")


# ---- confusion matrix ----------------------------------------------------------------------------------------------


def confusion_matrix(truth: torch.Tensor, answer: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return the counts of pixels, [num_classes, num_classes], by true class (row) and answered class (column).

    Both maps are [H, W]. Where the truth is void, 255, a pixel does not count.
    """
    asked = truth != 255
    pairs = truth[asked] * num_classes + answer[asked]
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _draw_confusion_matrix(draw: Draw) -> tuple[Tensor, Tensor, int]:
    num_classes = draw.whole(2, 4)
    shape = draw.whole(1, 3), draw.whole(3, 5)
    truth, answer = (_draw_ids(draw, num_classes, *shape) for _ in range(2))
    truth[draw.whole(0, shape[0] - 1), draw.whole(0, shape[1] - 1)] = VOID
    return truth, answer, num_classes


def _draw_ids(draw: Draw, num_classes: int, height: int, width: int) -> Tensor:
    return torch.randint(num_classes, (height, width), generator=draw.generator)


def _judge_confusion_matrix(answer: object, truth: Tensor, answer_map: Tensor, num_classes: int) -> None:
    matrix = ConfusionMatrix(num_classes)
    matrix.update(answer_map, truth)
    same_tensor(answer, matrix.counts)


# ---- mean IoU ------------------------------------------------------------------------------------------------------


def mean_iou(counts: torch.Tensor) -> float:
    """Return the mIoU that a confusion matrix [C, C] holds; rows are true classes, columns are answered ones.

    A class that occurs neither in the truth nor in the answers is left out of the mean.
    """
    right = counts.diag()
    union = counts.sum(dim=1) + counts.sum(dim=0) - right
    occurs = union > 0
    return (right[occurs] / union[occurs]).mean().item()


def _draw_mean_iou(draw: Draw) -> tuple[Tensor]:
    num_classes = draw.whole(3, 4)
    counts = _draw_ids(draw, 10, num_classes, num_classes)
    absent, only_answered, other, *_ = torch.randperm(num_classes, generator=draw.generator).tolist()
    counts[absent] = 0
    counts[:, absent] = 0
    if draw.whole(0, 1):
        counts[only_answered] = 0
    counts[other, other] += 1  # some class occurs
    return (counts,)


def _judge_mean_iou(answer: object, counts: Tensor) -> None:
    matrix = ConfusionMatrix(len(counts))
    matrix.counts = counts
    seen, mean = real_number(answer), matrix.mean_iou
    if math.isnan(seen):
        raise WrongAnswer("you return nan: a class that occurs nowhere gives 0 / 0; leave it out before you divide")
    if not math.isclose(seen, mean, abs_tol=1e-4):
        ious = ", ".join("0 / 0" if math.isnan(iou) else f"{iou:.4g}" for iou in matrix.iou.tolist())
        raise WrongAnswer(f"you return {seen:.4g}; the IoUs of the classes are {ious}, and their mean is {mean:.4g}")


# ---- trimap --------------------------------------------------------------------------------------------------------


def boundary_band(labels: torch.Tensor, width: int) -> torch.Tensor:
    """Return a map like labels [H, W] with 1 where the square around a pixel holds more than one label, else 0.

    The square reaches `width` pixels to each side and ends at the edge of the picture. Void is a label like others.
    """
    band = torch.zeros_like(labels)
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            rows = labels[max(row - width, 0) : row + width + 1]
            square = rows[:, max(column - width, 0) : column + width + 1]
            band[row, column] = (square != labels[row, column]).any()
    return band


def _draw_boundary_band(draw: Draw) -> tuple[Tensor, int]:
    """Background, a rectangle of a class that lies nearer to one corner, and often a pixel of void."""
    height, width = draw.whole(5, 7), draw.whole(5, 7)
    labels = torch.zeros(height, width, dtype=torch.int64)
    top, left = draw.whole(0, height - 2), draw.whole(0, width - 2)
    labels[top : top + draw.whole(1, 3), left : left + draw.whole(1, 3)] = draw.whole(1, 3)
    if draw.whole(0, 1):
        labels[draw.whole(0, height - 1), draw.whole(0, width - 1)] = VOID
    return labels, draw.whole(1, 2)


def _judge_boundary_band(answer: object, labels: Tensor, width: int) -> None:
    same_tensor(answer, trimap_band(labels, width).long())


# ---- names for regions ---------------------------------------------------------------------------------------------


def name_regions(regions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return a label map [H, W] in which each region has the most frequent label of its pixels.

    Void, 255, has no vote. A region that holds nothing else stays void.
    """
    named = torch.full_like(labels, 255)
    for region in torch.unique(regions):
        inside = regions == region
        votes = labels[inside & (labels != 255)]
        if len(votes):
            named[inside] = torch.bincount(votes).argmax()
    return named


def _draw_name_regions(draw: Draw) -> tuple[Tensor, Tensor]:
    """Two or three regions, one often void only; without ties, since nothing says who wins one."""
    while True:
        shape = draw.whole(2, 3), draw.whole(4, 5)
        regions, labels = _draw_ids(draw, draw.whole(2, 3), *shape), _draw_ids(draw, draw.whole(3, 5), *shape)
        labels[_draw_ids(draw, 3, *shape) == 0] = VOID
        if draw.whole(0, 1):
            labels[regions == 0] = VOID
        counts = [torch.bincount(labels[regions == region], minlength=VOID)[:VOID] for region in range(3)]
        first_two = [count.topk(2).values.tolist() for count in counts]
        if all(first > second or first == 0 for first, second in first_two):
            return regions, labels


def _judge_name_regions(answer: object, regions: Tensor, labels: Tensor) -> None:
    named = labels.clone()
    for region in set(regions.flatten().tolist()):
        votes = [label for label in labels[regions == region].tolist() if label != VOID]
        named[regions == region] = max(votes, key=votes.count) if votes else VOID
    same_tensor(answer, named)


CHAPTER = Chapter(
    1,
    "segmentation",
    (
        Exercise(
            "segmentation.palette_id",
            palette_id,
            _draw_palette_id,
            _judge_palette_id,
            mistakes01.PALETTE_ID,
            (
                "The highest bit of red, `color[0] >> 7 & 1`, is the lowest bit of the id. Which bit is green's?",
                "`voc_color` backwards: bit `7 - level` of a channel is bit `3 * level + channel` of the id.",
            ),
        ),
        Exercise(
            "segmentation.confusion_matrix",
            confusion_matrix,
            _draw_confusion_matrix,
            _judge_confusion_matrix,
            mistakes01.CONFUSION_MATRIX,
            (
                "Give each pair of true and answered class a number of its own, and let `torch.bincount` count them.",
                "Number the pairs `truth * num_classes + answer`, without void. `minlength` keeps a place for all.",
            ),
        ),
        Exercise(
            "segmentation.mean_iou",
            mean_iou,
            _draw_mean_iou,
            _judge_mean_iou,
            mistakes01.MEAN_IOU,
            (
                "A class's right pixels stand on the diagonal, its true ones in a row, its answered ones in a column.",
                "The union is row + column - diagonal. Where that is 0 the class does not occur: keep the others.",
            ),
        ),
        Exercise(
            "segmentation.boundary_band",
            boundary_band,
            _draw_boundary_band,
            _judge_boundary_band,
            mistakes01.BOUNDARY_BAND,
            (
                "For one pixel: cut its square out of the map. How do you see that it holds more than one label?",
                "Begin the slice at `max(row - width, 0)`: a negative start would count from the end. An end beyond "
                "the map, `row + width + 1`, does no harm.",
            ),
        ),
        Exercise(
            "segmentation.name_regions",
            name_regions,
            _draw_name_regions,
            _judge_name_regions,
            mistakes01.NAME_REGIONS,
            (
                "Take one region number after the other. `labels[inside & (labels != 255)]` are its votes.",
                "Begin with a map of 255; without votes it stays. `torch.bincount(votes).argmax()` names the others.",
            ),
        ),
    ),
)
