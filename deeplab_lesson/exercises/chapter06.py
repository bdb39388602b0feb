"""Exercises of chapter 6, the fully connected CRF: references, inputs, judges and hints."""

import itertools
import math

import torch
from torch import Tensor

from deeplab_lesson.crf import grid
from deeplab_lesson.exercises import mistakes06
from deeplab_lesson.exercises.draw import Draw
from deeplab_lesson.exercises.exercise import Chapter, Exercise, WrongAnswer
from deeplab_lesson.exercises.judging import real_number, same_tensor

# ---- energy --------------------------------------------------------------------------------------------------------


def energy(unary: torch.Tensor, labels: torch.Tensor, weight: float) -> float:
    """Return what a labeling [H, W] costs, with the unary energies [C, H, W] and `weight` for each unequal pair.

    A pair is two pixels that share a side. Each pair counts once.
    """
    chosen = unary.gather(0, labels[None]).sum()
    right = (labels[:, 1:] != labels[:, :-1]).sum()
    below = (labels[1:] != labels[:-1]).sum()
    return float(chosen + weight * (right + below))


def _draw_energy(draw: Draw) -> tuple[Tensor, Tensor, int]:
    classes, height, width = draw.whole(2, 3), draw.whole(2, 3), draw.whole(3, 4)
    labels = draw.whole_numbers(height * width, 0, classes - 1)
    labels[-2:] = [0, 1]  # one pair that differs, at least
    return draw.tensor(classes, height, width), torch.tensor(labels).view(height, width), draw.whole(1, 5)


def _judge_energy(answer: object, unary: Tensor, labels: Tensor, weight: int) -> None:
    expected = float(grid.energy(grid.Grid.potts(unary, weight), labels))
    if not math.isclose(real_number(answer), expected, rel_tol=1e-4, abs_tol=1e-4):
        without = float(grid.energy(grid.Grid.potts(unary, 0), labels))
        pairs = round((expected - without) / weight)
        raise WrongAnswer(
            f"you return {real_number(answer):g}; the unary part is {without:g}, and {pairs} pairs differ, which cost "
            f"{weight} each: {expected:g}"
        )


# ---- kernels -------------------------------------------------------------------------------------------------------


def appearance(first: list[int], second: list[int], sigma_xy: float, sigma_rgb: float) -> float:
    """Return the appearance kernel of two pixels, each given as [x, y, red, green, blue], before normalization."""
    place = sum((a - b) ** 2 for a, b in zip(first[:2], second[:2], strict=True))
    color = sum((a - b) ** 2 for a, b in zip(first[2:], second[2:], strict=True))
    return float(torch.exp(torch.tensor(-place / (2 * sigma_xy**2) - color / (2 * sigma_rgb**2))))


def _draw_appearance(draw: Draw) -> tuple[list[int], list[int], int, int]:
    sigma_xy, sigma_rgb = draw.whole(3, 5), draw.whole(6, 9)
    first = [*draw.whole_numbers(2, 0, 20), *draw.whole_numbers(3, 20, 235)]
    steps = [draw.choice((-1, 1)) * draw.whole(2, 4) for _ in range(5)]
    second = [value + step * (1 + (place > 1)) for place, (value, step) in enumerate(zip(first, steps, strict=True))]
    return first, second, sigma_xy, sigma_rgb


def _judge_appearance(answer: object, first: list[int], second: list[int], sigma_xy: int, sigma_rgb: int) -> None:
    place, color = math.dist(first[:2], second[:2]), math.dist(first[2:], second[2:])
    expected = math.exp(-0.5 * ((place / sigma_xy) ** 2 + (color / sigma_rgb) ** 2))
    if not math.isclose(real_number(answer), expected, rel_tol=1e-3):
        raise WrongAnswer(
            f"you return {real_number(answer):.4g}; the places are {place / sigma_xy:.3g} sigma apart and the colors "
            f"{color / sigma_rgb:.3g}, which makes {expected:.4g}"
        )


# ---- mean field ----------------------------------------------------------------------------------------------------


def update(unary: torch.Tensor, kernel: torch.Tensor, marginals: torch.Tensor) -> torch.Tensor:
    """Return the marginals [C, P] after one update of all P pixels at once, with Potts penalties.

    `unary` and `marginals` are [C, P]. `kernel[i, j]` is how loudly pixel i hears pixel j; i = j counts, too.
    """
    messages = marginals @ kernel.T  # how much of each label a pixel hears from the others
    return torch.softmax(messages - unary, dim=0)


def _draw_field(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    classes, pixels = draw.whole(2, 3), draw.whole(3, 4)
    unary = draw.tensor(classes, pixels) / 4
    kernel = draw.tensor(pixels, pixels).abs() / 4
    kernel = (kernel + kernel.T) / 2
    marginals = draw.tensor(classes, pixels).abs()
    return unary, kernel, marginals / marginals.sum(dim=0)


def _draw_update(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    unary, kernel, marginals = _draw_field(draw)
    pixels = len(kernel)
    return unary, kernel * (1 + draw.tensor(pixels, pixels).abs() / 4), marginals  # its rows are not its columns


def _judge_update(answer: object, unary: Tensor, kernel: Tensor, marginals: Tensor) -> None:
    classes, pixels = unary.shape
    costs = unary.clone()  # of each label: what those pay that have another one
    for label, pixel, other in itertools.product(range(classes), range(pixels), range(pixels)):
        costs[label, pixel] += kernel[pixel, other] * (1 - marginals[label, other])
    weights = torch.exp(-costs + costs.amin(dim=0))
    same_tensor(answer, weights / weights.sum(dim=0))


def free_energy(unary: torch.Tensor, kernel: torch.Tensor, marginals: torch.Tensor) -> float:
    """Return the mean of the energy under independent marginals [C, P], minus their entropy, with Potts penalties.

    `unary` is [C, P], and the symmetric `kernel` [P, P] holds what each pair weighs. Its diagonal counts, too: the
    energy has 1/2 sum over i, j of kernel[i, j] times the chance that the labels of i and j differ.
    """
    entropy = -torch.special.xlogy(marginals, marginals).sum()
    differ = 1 - marginals.T @ marginals  # [P, P]
    return float((unary * marginals).sum() + 0.5 * (kernel * differ).sum() - entropy)


def _judge_free_energy(answer: object, unary: Tensor, kernel: Tensor, marginals: Tensor) -> None:
    q, u, k = (tensor.double().tolist() for tensor in (marginals, unary, kernel))
    labels, pixels = range(len(q)), range(len(k))
    cost = sum(q[c][i] * u[c][i] for c in labels for i in pixels)
    differ = {(i, j): sum(q[a][i] * q[b][j] for a in labels for b in labels if a != b) for i in pixels for j in pixels}
    pairs = sum(k[i][j] * differ[i, j] for i in pixels for j in pixels) / 2
    entropy = -sum(q[c][i] * math.log(q[c][i]) for c in labels for i in pixels)
    if not math.isclose(real_number(answer), cost + pairs - entropy, rel_tol=1e-3, abs_tol=1e-3):
        raise WrongAnswer(
            f"you return {real_number(answer):.4g}; the unary part is {cost:.4g}, the pairs {pairs:.4g}, the entropy "
            f"{entropy:.4g}: {cost + pairs - entropy:.4g}"
        )


# ---- the grid ------------------------------------------------------------------------------------------------------


def splat_and_slice(values: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Give each pixel the mean of its cell: values [P, C], and the number of each pixel's cell [P], from 0.

    It is the bilateral grid without its blur. A number may be missing: a cell in which no pixel lies.
    """
    count = int(cells.max()) + 1
    sums = torch.zeros(count, values.shape[1]).index_add(0, cells, values)
    sizes = torch.bincount(cells, minlength=count)
    return (sums / sizes.clamp(min=1)[:, None])[cells]


def _draw_cells(draw: Draw) -> tuple[Tensor, Tensor]:
    pixels = draw.whole(5, 7)
    cells = draw.whole_numbers(pixels, 1, 3)
    cells[0], cells[-1], cells[1] = 4, 4, 1  # a pair that are no neighbors, and cell 0 is empty
    return draw.tensor(pixels, draw.whole(2, 3)), torch.tensor(cells)


def _judge_cells(answer: object, values: Tensor, cells: Tensor) -> None:
    same_cell = (cells[:, None] == cells).float()  # [P, P]
    same_tensor(answer, (same_cell / same_cell.sum(dim=1, keepdim=True)) @ values)


CHAPTER = Chapter(
    6,
    "the CRF",
    (
        Exercise(
            "crf.energy",
            energy,
            _draw_energy,
            _judge_energy,
            mistakes06.ENERGY,
            (
                "Two parts: the unary energy of each pixel's own label, and `weight` for each pair that differs.",
                "`labels[:, 1:] != labels[:, :-1]` finds the pairs along rows. And along columns?",
            ),
        ),
        Exercise(
            "crf.appearance",
            appearance,
            _draw_appearance,
            _judge_appearance,
            mistakes06.APPEARANCE,
            (
                "Two squared distances: of the places, and of the colors. Each is divided by its own 2 sigma².",
                "They are added in the exponent: exp(-place / (2 sigma_xy²) - color / (2 sigma_rgb²)).",
            ),
        ),
        Exercise(
            "crf.splat_and_slice",
            splat_and_slice,
            _draw_cells,
            _judge_cells,
            mistakes06.SPLAT_AND_SLICE,
            (
                "First a table of cells: the sum of the values in each, and how many pixels each has.",
                "`torch.zeros(count, C).index_add(0, cells, values)` sums the rows of each cell; `table[cells]` reads.",
            ),
        ),
        Exercise(
            "crf.update",
            update,
            _draw_update,
            _judge_update,
            mistakes06.UPDATE,
            (
                "Pixel i hears from pixel j how probable each label is there, as loudly as kernel[i, j].",
                "With Potts, support lowers the cost: softmax over the labels of messages - unary.",
            ),
        ),
        Exercise(
            "crf.free_energy",
            free_energy,
            _draw_field,
            _judge_free_energy,
            mistakes06.FREE_ENERGY,
            (
                "Independent pixels have the same label with probability sum over l of q[l, i] q[l, j].",
                "Three parts: sum of unary * q; half of the sum of kernel * (1 - q.T @ q); and sum of q log q.",
            ),
        ),
    ),
)
