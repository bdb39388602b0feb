"""The permutohedral lattice: Gaussian filtering in any number of dimensions, in time linear in the pixels.

A pixel is a point in feature space, such as (x, y, red, green, blue), each divided by its sigma. Filtering with
exp(-|f_i - f_j|^2 / 2) is done on a coarse lattice of that space: *splat* each pixel's value onto the corners of the
simplex around it, *blur* along each lattice direction with [1/2, 1, 1/2], *slice*: read each pixel's value back from
the same corners.

Source: Adams, Baek, Davis 2010, "Fast High-Dimensional Filtering Using the Permutohedral Lattice".
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from deeplab_lesson.crf.checks import check_normalization, check_points
from deeplab_lesson.crf.splat_blur_slice import SplatBlurSlice, number_cells

FARTHEST = 2.0**20  # much farther out float32 cannot order the corners around a point


class PermutohedralLattice(SplatBlurSlice):
    """The normalized Gaussian kernel between points, as an operator on their values [P, L].

    Its k(i, j) is about exp(-|f_i - f_j|^2 / 2), 1 on the diagonal.

    Args:
        features: float [P, d], one point a row, in units of sigma.
        group: int64 [P]; points of different groups do not see each other (a group for each image of a batch).
        normalization: "symmetric" (pydensecrf's) or "after" (the published code of DeepLab v1 and v2).

    Attributes:
        size: how many lattice points carry a value.

    Raises:
        ValueError: features so far apart, in units of sigma, that the lattice points cannot be numbered, or as in
            `check_points`.
    """

    def __init__(self, features: Tensor, group: Tensor | None = None, *, normalization: str = "symmetric") -> None:
        check_normalization(normalization)
        check_points(features, group, FARTHEST)
        nearest, rank, weights = enclosing_simplex(features)
        strides, keys = _corner_keys(nearest, rank, group)
        d = features.shape[1]

        def neighbors(cells: Tensor) -> Iterator[Tensor]:
            """Along each of d + 1 directions one coordinate rises by d and the others fall by 1: from remainder 0 that
            borrows d + 1 of each of the others, and from any other remainder it gives d + 1 to the one."""
            from_zero = cells % (d + 1) == 0
            for stride in (*strides, 0):
                yield cells + torch.where(from_zero, d + stride - sum(strides), stride - 1).to(cells.dtype)

        super().__init__(keys, weights, neighbors, center=1, side=0.5, normalization=normalization)


def enclosing_simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the simplex of the lattice around each point.

    The lattice lies in the plane of d + 1 coordinates that sum to zero: its points are whole numbers that leave the
    same remainder when divided by d + 1. A point's simplex is named by its nearest point of remainder 0 and by the
    order of the coordinates of what is left.

    Args:
        features: float [P, d].

    Returns:
        nearest: int64 [d + 1, P], the corner of remainder 0, divided by d + 1.
        rank: int64 [d + 1, P], 0 for the coordinate with the largest residual.
        weights: float [P, d + 1], barycentric: each row sums to 1; column r is for the corner of remainder r.
    """
    points, d = features.shape
    elevated = features.new_empty(d + 1, points)
    total = features.new_zeros(points)
    for j in range(d, 0, -1):
        # Splat, blur and slice together have the variance 2 (d + 1)^2 / 3 along each axis; the scale makes that 1.
        part = features[:, j - 1] * ((d + 1) * (2 / (3 * j * (j + 1))) ** 0.5)
        elevated[j] = total - j * part
        total = total + part
    elevated[0] = total
    nearest = torch.round(elevated * (1 / (d + 1)))
    residual = elevated - nearest * (d + 1)
    rank = nearest.sum(0).int().repeat(d + 1, 1)
    for i in range(d):
        for j in range(i + 1, d + 1):
            smaller = (residual[i] < residual[j]).int()
            rank[i] += smaller
            rank[j] += 1 - smaller
    wrap = (rank < 0).int() - (rank > d).int()  # the roundings may not sum to zero: back onto the plane
    rank = (rank + wrap * (d + 1)).long()
    nearest = nearest + wrap
    part = (elevated - nearest * (d + 1)) * (1 / (d + 1))
    falling = torch.empty_like(part).scatter_(0, rank, part)  # by rank: the largest first
    weights = features.new_empty(points, d + 1)
    weights[:, 0] = 1 + falling[d] - falling[0]
    for remainder in range(1, d + 1):
        weights[:, remainder] = falling[d - remainder] - falling[d + 1 - remainder]
    return nearest.long(), rank, weights


def _corner_keys(nearest: Tensor, rank: Tensor, group: Tensor | None) -> tuple[list[int], Tensor]:
    """Number the corners by the digits of one integer: the remainder, and d coordinates (the last is implied), of
    which the remainder is taken off and the rest divided by d + 1.

    Returns:
        strides: d numbers, what d + 1 more of each coordinate adds.
        keys: int [P, d + 1], by remainder.
    """
    d = len(nearest) - 1
    nearest, rank = nearest[:d], rank[:d]
    low = nearest.amin(1) - 2  # a corner may lie one below, and a neighbor of it one more, or one above
    span = nearest.amax(1) - low + 2
    strides, first = number_cells(nearest - low[:, None], span, group, lowest=d + 1)
    # From a corner to the next the remainder rises by 1, and one coordinate, in order of rank, falls by d + 1.
    added = first.new_tensor(strides)[:, None].expand_as(rank)
    falls = first.new_zeros(d + 2, len(first)).scatter_add_(0, d + 1 - rank, added)
    remainder = torch.arange(d + 1, device=first.device, dtype=first.dtype)[:, None]
    keys = first + remainder - falls[: d + 1].cumsum(0, dtype=first.dtype)  # [d + 1, P]
    return strides, keys.T.contiguous()
