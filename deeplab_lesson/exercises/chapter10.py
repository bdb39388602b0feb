"""Exercises of chapter 10, what came with and after DeepLab: references, inputs, judges and hints."""

import math

import torch
from torch import Tensor

from deeplab_lesson.data.palette import VOID
from deeplab_lesson.exercises import mistakes10
from deeplab_lesson.exercises.draw import Draw
from deeplab_lesson.exercises.exercise import Chapter, Exercise, WrongAnswer
from deeplab_lesson.exercises.judging import real_number, same_tensor


def fuse_scales(scores: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """Merge the scores [S, C, H, W] of S scales into [C, H, W].

    `attention` [S, H, W] says how much each scale counts at a pixel, before
    the softmax over the scales.
    """
    weights = attention.softmax(dim=0)
    return (weights[:, None] * scores).sum(dim=0)


def _draw_scales(draw: Draw) -> tuple[Tensor, Tensor]:
    scales, classes, height = draw.whole(2, 3), draw.whole(2, 3), draw.whole(1, 2)
    width = height + draw.whole(1, 2)
    attention = torch.tensor(draw.whole_numbers(scales * height * width, 0, 3)).float()
    attention[0] = attention[-1] + draw.choice((1, 2))  # at one pixel, at least, the scales differ
    return draw.tensor(scales, classes, height, width), attention.view(scales, height, width)


def _judge_scales(answer: object, scores: Tensor, attention: Tensor) -> None:
    scales, classes, height, width = scores.shape
    expected = torch.zeros(classes, height, width)
    for row in range(height):
        for column in range(width):
            likes = [math.exp(attention[scale, row, column].item()) for scale in range(scales)]
            for scale in range(scales):
                expected[:, row, column] += likes[scale] / sum(likes) * scores[scale, :, row, column]
    same_tensor(answer, expected)


def keep_labels(percent: torch.Tensor, thresholds: list[int]) -> torch.Tensor:
    """Return pseudo labels [H, W]: the likeliest class of each pixel, or 255.

    `percent` [C, H, W] is what the teacher says. A pixel is kept if its
    likeliest class has as many percent as that class's threshold, or more.
    """
    classes = percent.argmax(dim=0)
    sure = percent.amax(dim=0) >= torch.tensor(thresholds)[classes]
    return torch.where(sure, classes, 255)


def _draw_answers(draw: Draw) -> tuple[Tensor, list[int]]:
    height = draw.whole(1, 2)
    width = height + draw.whole(2, 3)
    thresholds = [draw.whole(51, 85), draw.whole(25, 44), draw.whole(25, 85)]
    percent = torch.zeros(3, height * width)
    for pixel in range(2, height * width):
        most = draw.whole(40, 95)
        rest = 100 - most
        second = draw.whole(max(0, rest - most + 1), min(rest, most - 1))
        percent[:, pixel] = torch.tensor([most, second, rest - second]).roll(draw.whole(0, 2)).float()
    percent[:, 0] = torch.tensor([50.0, 45, 5])  # class 0 leads and is not sure enough; class 1 would be
    percent[0, 1], percent[2, 1] = thresholds[0], 100 - thresholds[0]  # just what is asked for
    return percent.view(3, height, width), thresholds


def _judge_keep(answer: object, percent: Tensor, thresholds: list[int]) -> None:
    _, height, width = percent.shape
    expected = torch.full((height, width), VOID)
    for row in range(height):
        for column in range(width):
            here = percent[:, row, column].tolist()
            best = max(range(len(here)), key=here.__getitem__)
            if here[best] >= thresholds[best]:
                expected[row, column] = best
    same_tensor(answer, expected)


def quality_from_areas(overlap: torch.Tensor, predicted: torch.Tensor, true: torch.Tensor) -> float:
    """Return the PQ of one class, from the areas of its segments in pixels.

    `overlap` [P, T] holds what each predicted segment shares with each true
    one; `predicted` [P] and `true` [T] hold their areas.
    """
    iou = overlap / (predicted[:, None] + true - overlap)
    matched = iou > 0.5
    pairs = matched.sum()
    alone = len(predicted) + len(true) - 2 * pairs
    return float(iou[matched].sum() / (pairs + alone / 2))


def _draw_areas(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    found, there = draw.whole(2, 3), draw.whole(2, 3)
    overlap = torch.tensor(draw.whole_numbers(found * there, 0, 4)).view(found, there)
    for place in range(min(found, there)):
        overlap[place, place] = draw.whole(20, 40)
    overlap[0, 0] = 40  # a match; the others may be one or not
    more, missing = (torch.tensor(draw.whole_numbers(count, 1, 24)) for count in (found, there))
    more[0] = missing[0] = draw.whole(1, 4)
    return overlap, overlap.sum(dim=1) + more, overlap.sum(dim=0) + missing


def _judge_areas(answer: object, overlap: Tensor, predicted: Tensor, true: Tensor) -> None:
    matches = []
    for row, area in enumerate(predicted.tolist()):
        for column, other in enumerate(true.tolist()):
            shared = int(overlap[row, column])
            if 2 * shared > area + other - shared:
                matches.append(shared / (area + other - shared))
    false = len(predicted) - len(matches), len(true) - len(matches)
    expected = sum(matches) / (len(matches) + sum(false) / 2)
    if not math.isclose(real_number(answer), expected, rel_tol=1e-3):
        raise WrongAnswer(
            f"you return {real_number(answer):.4g}; there are {len(matches)} matches, their IoUs sum to "
            f"{sum(matches):.4g}, and {false[0]} predicted and {false[1]} true segments stay alone: {expected:.4g}"
        )


def group_pixels(centers: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Return the object of each pixel [H, W], 1 to K: the nearest center.

    `centers` [K, 2] are (row, column). Nearest to where the pixel points:
    `offset` [2, H, W] says how many pixels down and to the right.
    """
    height, width = offset.shape[1:]
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width))  # [H W, 2]
    pointed = places + offset.flatten(1).T
    nearest = torch.cdist(pointed, centers).argmin(dim=1)
    return nearest.view(height, width) + 1


def _draw_centers(draw: Draw) -> tuple[Tensor, Tensor]:
    height = draw.whole(2, 3)
    width, count = height + draw.whole(1, 2), draw.whole(2, 3)
    places = torch.randperm(36, generator=draw.generator)[:count]
    centers = torch.stack([places // 6, places % 6], dim=1).float()
    offset = torch.tensor(draw.whole_numbers(2 * height * width, -3, 3)).float()
    return centers, offset.view(2, height, width)


def _judge_centers(answer: object, centers: Tensor, offset: Tensor) -> None:
    _, height, width = offset.shape
    expected = torch.zeros(height, width, dtype=torch.int64)
    for row in range(height):
        for column in range(width):
            down, right = (offset[:, row, column] + torch.tensor([row, column])).tolist()
            far = [math.dist((down, right), center) for center in centers.tolist()]
            nearest = [number for number, distance in enumerate(far, 1) if distance < min(far) + 1e-4]
            expected[row, column] = nearest[0]
            if isinstance(answer, Tensor) and answer.shape == expected.shape:
                given = answer[row, column].item()  # of centers that are equally near, any is right
                expected[row, column] = int(given) if given in nearest else nearest[0]
    same_tensor(answer, expected)


def classify_masks(masks: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Turn the answer of Q queries into class scores [C, H, W].

    `masks` [Q, H, W] and `classes` [Q, C + 1] are logits; the last class is
    "no object". A pixel's score of a class is the sum over the queries of the
    class's probability (softmax) times the mask's (sigmoid).
    """
    likely = classes.softmax(dim=1)[:, :-1]
    return torch.einsum("qc,qhw->chw", likely, masks.sigmoid())


def _draw_masks(draw: Draw) -> tuple[Tensor, Tensor]:
    queries, classes, height = draw.whole(2, 3), draw.whole(2, 3), draw.whole(1, 2)
    width = height + draw.whole(1, 2)
    masks = torch.tensor(draw.whole_numbers(queries * height * width, -3, 3)).float()
    likes = torch.tensor(draw.whole_numbers(queries * (classes + 1), -2, 2)).float().view(queries, classes + 1)
    likes[0] = torch.arange(classes + 1.0) - 1
    return masks.view(queries, height, width), likes


def _judge_masks(answer: object, masks: Tensor, classes: Tensor) -> None:
    expected = torch.zeros(classes.shape[1] - 1, *masks.shape[1:])
    for mask, likes in zip(masks, classes, strict=True):
        inside = 1 / (1 + torch.exp(-mask))
        total = sum(math.exp(like) for like in likes.tolist())
        for class_id in range(len(expected)):
            expected[class_id] += math.exp(likes[class_id].item()) / total * inside
    same_tensor(answer, expected)


CHAPTER = Chapter(
    10,
    "what came with and after",
    (
        Exercise(
            "beyond.fuse_scales",
            fuse_scales,
            _draw_scales,
            _judge_scales,
            mistakes10.FUSE_SCALES,
            (
                "The weights at a pixel sum to 1: `attention.softmax(dim=...)`. Over which dimension?",
                "weights are [S, H, W], scores [S, C, H, W]: `weights[:, None]` gives every class the pixel's weight.",
            ),
        ),
        Exercise(
            "beyond.keep_labels",
            keep_labels,
            _draw_answers,
            _judge_keep,
            mistakes10.KEEP_LABELS,
            (
                "Two maps: the likeliest class (`argmax`), and how many percent it has (`amax`).",
                "`torch.tensor(thresholds)[classes]` is a map of the threshold that each pixel has to reach.",
            ),
        ),
        Exercise(
            "beyond.quality_from_areas",
            quality_from_areas,
            _draw_areas,
            _judge_areas,
            mistakes10.QUALITY_FROM_AREAS,
            (
                "First the IoU of every pair [P, T]: what they share, over area + area - what they share.",
                "TP is how many IoUs are above 1/2; the rest of P are FP, the rest of T are FN.",
            ),
        ),
        Exercise(
            "beyond.group_pixels",
            group_pixels,
            _draw_centers,
            _judge_centers,
            mistakes10.GROUP_PIXELS,
            (
                "Where a pixel points is its own place plus its offset. Which center is nearest to there?",
                "`torch.cdist(pointed, centers)` is [H W, K], with pointed [H W, 2]; argmin begins at 0, objects at 1.",
            ),
        ),
        Exercise(
            "beyond.classify_masks",
            classify_masks,
            _draw_masks,
            _judge_masks,
            mistakes10.CLASSIFY_MASKS,
            (
                "The classes of a query exclude each other: softmax. A mask is a yes or no at each pixel: sigmoid.",
                'Drop the last class after the softmax. Then `torch.einsum("qc,qhw->chw", ...)` sums over the queries.',
            ),
        ),
    ),
)
