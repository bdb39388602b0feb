"""The random field itself: what a labelling of a grid costs."""

from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from deeplab_lesson.layers.checks import check_holds_numbers

Index = tuple[EllipsisType | slice, ...]


class Grid:
    """A pairwise random field on the pixels of a picture: P(x) = exp(-E(x)) / Z, with the energy

    E(x) = sum over pixels of U_i(x_i) + sum over pairs of neighbors of w_ij mu(x_i, x_j).

    A pair is two pixels that share a side, and it counts once. Everything is held in float64 on the unary's device
    (float32 on Apple's GPUs, which have no float64). A weight may be negative: such neighbors prefer to differ.
    A weight of 0 takes the pair out, so that a grid can be made a tree.

    Args:
        unary: U = -log P of each label at each pixel [C, H, W]. A constant added at a pixel changes no probability.
        horizontal: weights of a pixel and the one on its right [H, W - 1].
        vertical: weights of a pixel and the one below it [H - 1, W].
        compatibility: penalties mu [C, C], symmetric because a pair has no order. None is Potts: 0 for equal labels,
            1 for any two that differ. Labels are names, not magnitudes, so that 3 and 20 differ no more than 0 and 1.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, an asymmetric compatibility.

    Source: v1 section 4.2 (arXiv 1412.7062), the short-range CRF that DeepLab's fully connected one replaces.
    """

    def __init__(self, unary: Any, horizontal: Any, vertical: Any, compatibility: Any = None) -> None:
        self.unary = _table(unary, "unary")
        if self.unary.ndim != 3 or not self.unary.numel():
            raise ValueError(f"unary is {list(self.unary.shape)}: allowed is [C, H, W] with at least one of each")
        C, H, W = self.unary.shape
        self.horizontal = _table(horizontal, "horizontal", like=self.unary)
        self.vertical = _table(vertical, "vertical", like=self.unary)
        for name, table, shape in (
            ("horizontal", self.horizontal, [H, W - 1]),
            ("vertical", self.vertical, [H - 1, W]),
        ):
            if list(table.shape) != shape:
                raise ValueError(
                    f"{name} is {list(table.shape)} and unary {[C, H, W]}: allowed is one weight a pair, {shape}; "
                    "Grid.potts takes one number for all pairs"
                )
        potts = 1 - torch.eye(C)
        self.compatibility = _table(potts if compatibility is None else compatibility, "compatibility", like=self.unary)
        if list(self.compatibility.shape) != [C, C]:
            raise ValueError(
                f"compatibility is {list(self.compatibility.shape)} and unary {[C, H, W]}: allowed is one penalty for "
                f"each pair of labels, {[C, C]}"
            )
        if not torch.equal(self.compatibility, self.compatibility.T):
            k, l = (self.compatibility != self.compatibility.T).nonzero()[0].tolist()  # noqa: E741
            raise ValueError(
                f"compatibility is {self.compatibility[k, l]:g} for the labels ({k}, {l}) and "
                f"{self.compatibility[l, k]:g} for ({l}, {k}): a pair has no order, so make it symmetric, for example "
                "(compatibility + compatibility.T) / 2"
            )

    @classmethod
    def potts(cls, unary: Any, weight: float) -> "Grid":
        """Every pair of neighbors that differ costs the same `weight`: it smooths and knows nothing of the picture."""
        unary = _table(unary, "unary")
        sizes = [unary[pair[0]].shape[1:] for pair in PAIRS] if unary.ndim == 3 else [(), ()]  # other ranks are refused
        return cls(unary, *(torch.full(size, weight, dtype=torch.float64) for size in sizes))

    @classmethod
    def contrast_sensitive(cls, unary: Any, image: Any, weight: float, sigma_rgb: float) -> "Grid":
        """Neighbors that differ cost less where the picture has an edge: w_ij = weight exp(-|I_i - I_j|² / 2 sigma²).

        Args:
            image: [K, H, W], any number of channels.
            sigma_rgb: how far two colors may lie apart and still count as alike, in the image's units (0 to 255).

        Raises:
            ValueError: an image of another size or not finite, sigma_rgb <= 0.

        Source: Boykov, Jolly 2001, Interactive graph cuts, section 2.4.
        """
        unary = _table(unary, "unary")
        colors = _table(image, "image", like=unary)
        if colors.ndim != 3 or colors.shape[1:] != unary.shape[1:]:
            raise ValueError(
                f"image is {list(colors.shape)} and unary {list(unary.shape)}: allowed are [K, H, W] and [C, H, W] "
                "with one H and one W; an [H, W, 3] picture becomes one by permute(2, 0, 1)"
            )
        if not sigma_rgb > 0:
            raise ValueError(f"sigma_rgb={sigma_rgb}: allowed are numbers above 0, in the image's units")
        weights = [
            weight * torch.exp(-(colors[first] - colors[second]).square().sum(dim=0) / (2 * sigma_rgb**2))
            for first, second in PAIRS
        ]
        return cls(unary, *weights)

    def pairs(self) -> tuple[tuple[Index, Index, Tensor], ...]:
        """The neighbors, axis by axis: where the first of each pair lies, where the second, and their weight."""
        return tuple((*pair, weights) for pair, weights in zip(PAIRS, (self.horizontal, self.vertical), strict=True))

    def neighbor_costs(self, marginals: Tensor) -> Tensor:
        """What each label would cost at each pixel because of its neighbors: sum over j of w_ij (mu q_j) [C, H, W].

        `marginals` [C, H, W] are what the neighbors are believed to be. Mean field asks with probabilities, ICM with
        labels that are certain (one-hot); otherwise their updates are the same.
        """
        penalties = torch.einsum("kl,lhw->khw", self.compatibility, marginals)
        costs = torch.zeros_like(self.unary)
        for first, second, weights in self.pairs():
            costs[first] += weights * penalties[second]
            costs[second] += weights * penalties[first]
        return costs

    def check_labels(self, labels: Tensor) -> Tensor:
        """Return the labels on the model's device, or refuse them: [..., H, W], integers from 0 to C - 1."""
        C, H, W = self.unary.shape
        check_holds_numbers("labels", labels)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"labels are {labels.dtype}: allowed are class ids (integers), as from argmax(dim=0)")
        if list(labels.shape[-2:]) != [H, W]:
            raise ValueError(f"labels are {list(labels.shape)} and unary {[C, H, W]}: allowed is [..., {H}, {W}]")
        if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= C):
            wrong = labels[(labels < 0) | (labels >= C)].unique().tolist()  # type: ignore[no-untyped-call]
            raise ValueError(
                f"labels hold {wrong[:8]}: allowed are 0 to {C - 1}; void (255) has no energy, so give it a label first"
            )
        return labels.to(self.unary.device, torch.int64)


PAIRS: tuple[tuple[Index, Index], ...] = (
    ((..., slice(None), slice(None, -1)), (..., slice(None), slice(1, None))),  # left and right
    ((..., slice(None, -1), slice(None)), (..., slice(1, None), slice(None))),  # upper and lower
)


def energy(model: Grid, labels: Tensor) -> Tensor:
    """Add up what a labelling [H, W] costs; with leading axes [..., H, W], each of the labellings [...].

    Raises:
        ValueError, TypeError: another size, labels that are not 0 to C - 1, labels that are no integers.
    """
    labels = model.check_labels(labels)
    rows = torch.arange(labels.shape[-2], device=labels.device)[:, None]
    columns = torch.arange(labels.shape[-1], device=labels.device)
    total = model.unary[labels, rows, columns].sum(dim=(-2, -1))
    for first, second, weights in model.pairs():
        total = total + (weights * model.compatibility[labels[first], labels[second]]).sum(dim=(-2, -1))
    return total


def _table(values: Any, name: str, like: Tensor | None = None) -> Tensor:
    table = values if isinstance(values, Tensor) else torch.as_tensor(values, dtype=torch.float64)
    check_holds_numbers(name, table)
    if table.is_complex():
        raise TypeError(f"{name} is {table.dtype}: allowed are real numbers")
    device = table.device if like is None else like.device
    table = table.to(device, torch.float32 if device.type == "mps" else torch.float64)
    if not table.isfinite().all():
        wrong = (~table.isfinite()).nonzero()
        raise ValueError(
            f"{name} has {len(wrong)} values that are not finite, the first at {wrong[0].tolist()}: allowed are finite "
            "numbers" + ("; -log 0 is infinite: take -probabilities.clamp_min(1e-12).log()" if name == "unary" else "")
        )
    return table
