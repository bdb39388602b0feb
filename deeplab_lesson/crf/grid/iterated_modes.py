"""ICM, iterated conditional modes: each pixel in turn takes the label that is cheapest given its neighbors' labels."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.crf.grid.model import Grid, energy
from deeplab_lesson.crf.grid.orders import SEQUENTIAL, check_stop, update_masks


class Modes(NamedTuple):
    """What `icm` found."""

    labels: Tensor  # int64 [H, W]
    energies: list[float]  # of the start, and after each sweep; they never rise
    converged: bool  # the last sweep changed no label


def icm(model: Grid, start: Tensor | None = None, *, order: str = "checkerboard", max_sweeps: int = 100) -> Modes:
    """Lower the energy one pixel at a time until no single pixel can lower it: a local minimum, seldom the lowest.

    Args:
        start: labels [H, W]; None takes the label with the lowest unary at each pixel.
        order: "checkerboard" (black squares, then white) or "raster" (row by row). The minimum that is found depends
            on it. A pixel whose label is as cheap as another keeps its label.

    Raises:
        ValueError: unknown order, max_sweeps < 0, a start of another size or with labels that do not exist.

    Source: Besag 1986, On the statistical analysis of dirty pictures, section 2.5.
    """
    check_stop("max_sweeps", max_sweeps)
    masks = update_masks(order, model.unary, SEQUENTIAL)
    labels = model.unary.argmin(dim=0) if start is None else model.check_labels(start)
    if labels.ndim != 2:
        raise ValueError(f"start is {list(labels.shape)}: allowed is one labelling, {list(model.unary.shape[1:])}")
    energies = [energy(model, labels).item()]
    converged = False
    while not converged and len(energies) <= max_sweeps:
        before = labels
        for mask in masks:
            certain = F.one_hot(labels, len(model.unary)).permute(2, 0, 1).to(model.unary)  # [C, H, W]
            costs = model.unary + model.neighbor_costs(certain)
            cheapest = costs.amin(dim=0)
            # Costs that are equal but for rounding are a tie; without this, a pixel could change for nothing, forever.
            rounding = 8 * torch.finfo(costs.dtype).eps * costs.abs().amax()
            better = cheapest + rounding < costs.gather(0, labels[None])[0]
            labels = torch.where(mask & better, costs.argmin(dim=0), labels)
        energies.append(energy(model, labels).item())
        converged = torch.equal(labels, before)
    return Modes(labels, energies, converged)
