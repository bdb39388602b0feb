"""Search of the CRF's parameters on validation pictures, coarse to fine, as v1 and v2 did."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from deeplab_lesson.crf.checks import check_compatibility, check_inputs
from deeplab_lesson.crf.dense import iterate
from deeplab_lesson.crf.kernels import build_kernels, labels_last
from deeplab_lesson.crf.parameters import CRFParameters, read_parameters
from deeplab_lesson.layers.checks import check_whole
from deeplab_lesson.metrics import ConfusionMatrix

# v2 section 4.1.1: w1 in 3..6, sigma_alpha in 30..100 by tens, sigma_beta in 3..6; w2 and sigma_gamma stay at 3
GRID: Mapping[str, Sequence[float]] = {
    "appearance_weight": (3, 4, 5, 6),
    "appearance_sigma_xy": (30, 50, 70, 90),
    "appearance_sigma_rgb": (3, 4, 5, 6),
}

Picture = tuple[Tensor, Tensor, Tensor]


class Search(NamedTuple):
    """What a search found."""

    parameters: dict[str, Any]
    """The best ones, for `mean_field(logits, images, **parameters)`."""
    mean_iou: float
    """With them, on the pictures of the search."""
    mean_iou_before: float
    """Of the logits alone."""
    trials: dict[tuple[float, ...], float]
    """Mean IoU by the values of the searched parameters, in the order of the grid's names."""


@torch.no_grad()
def tune(
    pictures: Sequence[Picture],
    *,
    grid: Mapping[str, Sequence[float]] = GRID,
    rounds: int = 2,
    progress: bool = True,
    **fixed: Any,
) -> Search:
    """Find the parameters with the highest mean IoU: the whole grid first, then half steps around its best point.

    The score of the winner is optimistic, since it was chosen for it: measure on other pictures.

    Args:
        pictures: logits [C, H, W], image [channels, H, W] in 0..255 and label [H, W] of each (v1 and v2: 100 pictures).
        grid: the values of each searched parameter, by its name in CRFParameters.
        rounds: 1 is the grid alone; each further one halves the steps around the best point.
        progress: show a bar.
        fixed: the other parameters.

    Raises:
        TypeError: a name that CRFParameters does not have.
        ValueError: no pictures, an empty grid, rounds that are no whole number from 1, or values that CRFParameters or
            `mean_field` refuses.
    """
    check_whole("rounds", rounds)
    for name, axis in grid.items():
        if not isinstance(axis, Sequence):
            raise TypeError(f"the grid has {axis!r} for {name}: allowed is a sequence of numbers, such as (3, 4, 5)")
    if not pictures or not grid or not all(grid.values()) or rounds < 1:
        counts = {name: len(axis) for name, axis in grid.items()}
        raise ValueError(
            f"{len(pictures)} pictures, {rounds} rounds, and a grid of {counts} values: allowed is one or more of each"
        )
    for logits, image, label in pictures:
        check_inputs(logits[None], image[None])
        if label.shape != logits.shape[1:]:
            raise ValueError(
                f"a label is {list(label.shape)}: allowed is {list(logits.shape[1:])}, as its logits' pixels"
            )
    names = list(grid)
    values = [sorted({float(value) for value in axis}) for axis in grid.values()]
    trials: dict[tuple[float, ...], float] = {}
    for number in range(rounds):
        points = [point for point in itertools.product(*values) if point not in trials]
        settings = [read_parameters({**fixed, **dict(zip(names, point, strict=True))}) for point in points]
        with tqdm(total=len(points), desc=f"round {number + 1} of {rounds}", disable=not progress) as bar:
            for alike in _same_kernels(settings):
                for index, score in _score(pictures, alike).items():
                    trials[points[index]] = score
                bar.update(len(alike))
        best = max(trials, key=lambda point: trials[point])
        values = [_closer(axis, value) for axis, value in zip(values, best, strict=True)]
    before = ConfusionMatrix(len(pictures[0][0]))
    for logits, _, label in pictures:
        before.update(logits.argmax(0), label)
    return Search({**fixed, **dict(zip(names, best, strict=True))}, trials[best], before.mean_iou, trials)


def _same_kernels(settings: Sequence[CRFParameters]) -> list[dict[int, CRFParameters]]:
    """Group settings that differ in their weights only, each with its place in the list."""
    groups: dict[CRFParameters, dict[int, CRFParameters]] = {}
    for index, one in enumerate(settings):
        groups.setdefault(replace(one, appearance_weight=0, smoothness_weight=0), {})[index] = one
    return list(groups.values())


def _score(pictures: Sequence[Picture], alike: Mapping[int, CRFParameters]) -> dict[int, float]:
    """Return the mean IoU with each of the settings, whose kernels are built once for a picture."""
    matrices = {index: ConfusionMatrix(len(pictures[0][0])) for index in alike}
    for logits, image, label in pictures:
        penalties = next(iter(alike.values())).compatibility
        if penalties is not None:
            check_compatibility(penalties, len(logits), logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            scores = labels_last(logits[None])
            kernels = build_kernels(scores, image[None], next(iter(alike.values())))
            for index, one in alike.items():
                weights = (one.appearance_weight, one.smoothness_weight)
                terms = [(scores.new_tensor(weight), kernel) for weight, kernel in zip(weights, kernels, strict=True)]
                field = iterate(scores, terms, one.iterations, one.compatibility)  # [1, H, W, C]
                matrices[index].update(field[0].argmax(-1), label)
    return {index: matrix.mean_iou for index, matrix in matrices.items()}


def _closer(axis: Sequence[float], best: float) -> list[float]:
    """Half way from the best value to its neighbors on the axis."""
    place = axis.index(best)
    around = axis[max(0, place - 1) : place + 2]
    return sorted({(best + value) / 2 for value in around})
