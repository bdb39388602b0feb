"""Mean field: the best answer among those in which the pixels are independent."""

from typing import NamedTuple

import torch
from torch import Tensor

from deeplab_lesson.crf.grid.model import Grid
from deeplab_lesson.crf.grid.orders import SEQUENTIAL, check_stop, update_masks
from deeplab_lesson.layers.checks import check_holds_numbers


class MeanField(NamedTuple):
    """What `mean_field` found."""

    marginals: Tensor  # Q [C, H, W], which sums to 1 over the labels
    free_energies: list[float]  # of the start, and after each sweep
    converged: bool  # the last sweep changed no marginal by more than the tolerance

    @property
    def labels(self) -> Tensor:
        """The most probable label of each pixel, int64 [H, W]."""
        return self.marginals.argmax(dim=0)


def mean_field(
    model: Grid,
    start: Tensor | None = None,
    *,
    order: str = "checkerboard",
    max_sweeps: int = 200,
    tolerance: float = 1e-10,
) -> MeanField:
    """Update q_i = softmax(-U_i - sum over neighbors of w_ij mu q_j) until nothing changes.

    In the orders "checkerboard" and "raster", each update is the minimum of the free energy over one pixel's marginal,
    so that the free energy never rises; it ends in a local minimum, which depends on the start. In the order "parallel"
    all pixels are updated at once, as in the fully connected CRF; then the free energy may rise, and the marginals may
    swing between two states for ever.

    Args:
        start: marginals [C, H, W]; None takes softmax(-U).

    Raises:
        ValueError: unknown order, max_sweeps or tolerance < 0, a start that is no set of marginals.

    Source: Wainwright, Jordan 2008, section 5.3 (naive mean field); Krähenbühl, Koltun 2011 (arXiv 1210.5644),
    section 2.2, where the updates are parallel.
    """
    check_stop("max_sweeps", max_sweeps, tolerance)
    masks = update_masks(order, model.unary, (*SEQUENTIAL, "parallel"))
    marginals = torch.softmax(-model.unary, dim=0) if start is None else _check_marginals(model, start)
    free_energies = [free_energy(model, marginals).item()]
    converged = False
    while not converged and len(free_energies) <= max_sweeps:
        before = marginals
        for mask in masks:
            update = torch.softmax(-model.unary - model.neighbor_costs(marginals), dim=0)
            marginals = torch.where(mask, update, marginals)
        free_energies.append(free_energy(model, marginals).item())
        converged = bool((marginals - before).abs().amax() <= tolerance)
    return MeanField(marginals, free_energies, converged)


def free_energy(model: Grid, marginals: Tensor) -> Tensor:
    """F(Q) = the mean of the energy under Q, minus Q's entropy = KL(Q || P) - log Z, for independent pixels.

    KL is never negative, so that F is at least -log Z; where F is lower, Q is closer to P.

    Raises:
        ValueError: marginals [C, H, W] of another size, negative, or with a sum that is not 1.
    """
    q = _check_marginals(model, marginals)
    pairs = q * model.neighbor_costs(q) / 2  # both pixels of a pair count it, hence the half
    return (q * model.unary + pairs + torch.xlogy(q, q)).sum()


def _check_marginals(model: Grid, marginals: Tensor) -> Tensor:
    marginals = torch.as_tensor(marginals)
    check_holds_numbers("marginals", marginals)
    if marginals.is_complex():
        raise TypeError(f"marginals are {marginals.dtype}: allowed are real numbers, the probabilities of the labels")
    marginals = marginals.to(model.unary)
    if marginals.shape != model.unary.shape:
        raise ValueError(f"marginals are {list(marginals.shape)} and unary {list(model.unary.shape)}: they must agree")
    off = (marginals.sum(dim=0) - 1).abs().amax().item()
    if not (off < 1e-5 and marginals.amin() >= 0):  # also refuses nan
        raise ValueError(
            f"the lowest marginal is {marginals.amin().item():g}, and a pixel's sum is off 1 by up to {off:g}: "
            "allowed are probabilities; turn logits into them with softmax(dim=0)"
        )
    return marginals
