"""What readers get wrong in the exercises of chapter 6, as functions, each with what to tell them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.exercises.exercise import Misconception


def _energy(unary: Tensor, labels: Tensor, weight: float, *, twice: bool = False, rows: bool = True) -> float:
    own = unary.gather(0, labels[None]).sum()
    pairs = (labels[1:] != labels[:-1]).sum() + rows * (labels[:, 1:] != labels[:, :-1]).sum()
    return float(own + weight * (2 if twice else 1) * pairs)


def _equal_pairs_cost(unary: Tensor, labels: Tensor, weight: float) -> float:
    pairs = (labels[1:] == labels[:-1]).sum() + (labels[:, 1:] == labels[:, :-1]).sum()
    return float(unary.gather(0, labels[None]).sum() + weight * pairs)


def _labels_as_numbers(unary: Tensor, labels: Tensor, weight: float) -> float:
    down, right = labels[1:] * labels[:-1], labels[:, 1:] * labels[:, :-1]
    return float(unary.gather(0, labels[None]).sum() - weight * (down.sum() + right.sum()))


def _all_unaries(unary: Tensor, labels: Tensor, weight: float) -> float:
    return _energy(unary, labels, weight) - float(unary.gather(0, labels[None]).sum()) + float(unary.sum())


ENERGY = (
    Misconception(
        lambda unary, labels, weight: _energy(unary, labels, weight, twice=True),
        "You count each pair twice, once from either pixel. The energy sums over i < j.",
    ),
    Misconception(
        _equal_pairs_cost, "You charge pairs that agree. The Potts penalty is for pairs whose labels differ."
    ),
    Misconception(
        _labels_as_numbers,
        "You multiply labels. They are names, not magnitudes: ask only whether two of them differ.",
    ),
    Misconception(
        _all_unaries, "You add the unary energies of all labels. A pixel pays for the label that it has, only."
    ),
    Misconception(
        lambda unary, labels, weight: _energy(unary, labels, weight, rows=False),
        "You count the pairs of one direction only: pixels have neighbors along rows and along columns.",
    ),
)


def _squares(first: Sequence[int], second: Sequence[int]) -> tuple[float, float]:
    return math.dist(first[:2], second[:2]) ** 2, math.dist(first[2:], second[2:]) ** 2


def _without_half(first: list[int], second: list[int], sigma_xy: float, sigma_rgb: float) -> float:
    place, color = _squares(first, second)
    return math.exp(-place / sigma_xy**2 - color / sigma_rgb**2)


def _sigma_not_squared(first: list[int], second: list[int], sigma_xy: float, sigma_rgb: float) -> float:
    place, color = _squares(first, second)
    return math.exp(-place / (2 * sigma_xy) - color / (2 * sigma_rgb))


def _distance_not_squared(first: list[int], second: list[int], sigma_xy: float, sigma_rgb: float) -> float:
    place, color = _squares(first, second)
    return math.exp(-math.sqrt(place) / (2 * sigma_xy**2) - math.sqrt(color) / (2 * sigma_rgb**2))


def _sum_of_two(first: list[int], second: list[int], sigma_xy: float, sigma_rgb: float) -> float:
    place, color = _squares(first, second)
    return math.exp(-place / (2 * sigma_xy**2)) + math.exp(-color / (2 * sigma_rgb**2))


def _place_only(first: list[int], second: list[int], sigma_xy: float, sigma_rgb: float) -> float:
    return math.exp(-_squares(first, second)[0] / (2 * sigma_xy**2))


APPEARANCE = (
    Misconception(_without_half, "You leave out the 2: a Gaussian divides by 2 sigma²."),
    Misconception(_sigma_not_squared, "You divide by sigma and not by its square."),
    Misconception(_distance_not_squared, "Your distances are not squared, or a square root is too much."),
    Misconception(
        _sum_of_two,
        "You add two kernels. Place *and* color must be alike: their exponents are added, so the kernels multiply.",
    ),
    Misconception(_place_only, "You leave the colors out. That is the smoothness kernel."),
)


UPDATE = (
    Misconception(
        lambda unary, kernel, marginals: torch.softmax(marginals @ kernel.T + unary, dim=0),
        "You add the unary energy where it must be subtracted: it is a cost, -log p.",
    ),
    Misconception(
        lambda unary, kernel, marginals: torch.softmax(-marginals @ kernel.T - unary, dim=0),
        "You subtract the messages: like pixels would push each other apart. Support makes a label cheaper.",
    ),
    Misconception(
        lambda unary, kernel, marginals: torch.softmax(marginals @ kernel.T, dim=0),
        "You forget what the network said: without the unary, pixels hear only each other.",
    ),
    Misconception(
        lambda unary, kernel, marginals: torch.softmax(marginals @ kernel.T - unary, dim=1),
        "Your softmax runs over the pixels. The labels of one pixel sum to 1: that is dim=0.",
    ),
    Misconception(
        lambda unary, kernel, marginals: torch.softmax(
            F.one_hot(marginals.argmax(dim=0), len(unary)).T.to(unary) @ kernel.T - unary, dim=0
        ),
        "You let each pixel shout its best label, as ICM does. Mean field passes the probabilities on.",
    ),
    Misconception(
        lambda unary, kernel, marginals: torch.softmax(marginals @ kernel - unary, dim=0),
        "kernel[i, j] is how strongly pixel i hears pixel j; you use it the other way round.",
    ),
)


def _free_energy(
    unary: Tensor, kernel: Tensor, marginals: Tensor, *, half: float = 0.5, sign: float = 1.0, agree: bool = False
) -> float:
    same = marginals.T @ marginals
    pairs = half * (kernel * (same if agree else 1 - same)).sum()
    return float((unary * marginals).sum() + pairs + sign * torch.xlogy(marginals, marginals).sum())


FREE_ENERGY = (
    Misconception(
        lambda unary, kernel, marginals: _free_energy(unary, kernel, marginals, half=1.0),
        "The 1/2 is missing: the sum over all i and j meets each pair twice.",
    ),
    Misconception(
        lambda unary, kernel, marginals: _free_energy(unary, kernel, marginals, sign=-1.0),
        "You add the entropy; it is subtracted. A field that leaves more open has a lower free energy.",
    ),
    Misconception(
        lambda unary, kernel, marginals: _free_energy(unary, kernel, marginals, sign=0.0),
        "You leave the entropy out. What remains is the mean energy, and mean field would become ICM.",
    ),
    Misconception(
        lambda unary, kernel, marginals: _free_energy(unary, kernel, marginals, agree=True),
        "You charge pairs that agree. Potts is for pairs that differ, 1 - sum of q[l, i] q[l, j].",
    ),
    Misconception(
        lambda unary, kernel, marginals: _free_energy(unary, kernel - torch.diag(kernel.diag()), marginals),
        "You leave the diagonal out. Here, as in the published codes, the kernel counts the pixel itself.",
    ),
)


def _cell_sums(values: Tensor, cells: Tensor) -> Tensor:
    return torch.zeros(int(cells.max()) + 1, values.shape[1]).index_add(0, cells, values)


def _runs(values: Tensor, cells: Tensor) -> Tensor:
    """The means of pixels that stand side by side in one cell."""
    starts = torch.cat([torch.ones(1, dtype=torch.bool), cells[1:] != cells[:-1]])
    run = starts.cumsum(0) - 1
    return (_cell_sums(values, run) / run.bincount()[:, None])[run]


SPLAT_AND_SLICE = (
    Misconception(
        lambda values, cells: _cell_sums(values, cells)[cells],
        "You return the sum of the cell: divide by how many pixels lie in it.",
    ),
    Misconception(
        lambda values, cells: _cell_sums(values, cells) / cells.bincount().clamp(min=1)[:, None],
        "You return a row for each cell. The last step, slicing, gives each pixel the row of its cell.",
    ),
    Misconception(
        lambda values, cells: torch.zeros(int(cells.max()) + 1, values.shape[1]).index_copy(0, cells, values)[cells],
        "Pixels of one cell overwrite each other: an assignment keeps the last one. `index_add` adds them.",
    ),
    Misconception(
        _runs,
        "You join pixels that stand side by side only. A cell takes all that are alike, wherever they stand.",
    ),
    Misconception(
        lambda values, cells: (_cell_sums(values, cells) / len(cells))[cells],
        "You divide by the number of all pixels; divide by those of the cell.",
    ),
)
