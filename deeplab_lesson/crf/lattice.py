"""The permutohedral lattice: Gaussian filtering in any number of dimensions, in time linear in the pixels.

A pixel is a point in feature space, such as (x, y, red, green, blue), each divided by its sigma. Filtering with
exp(-|f_i - f_j|^2 / 2) is done on a coarse lattice of that space: *splat* each pixel's value onto the corners of the
simplex around it, *blur* along each lattice direction with [1/2, 1, 1/2], *slice*: read each pixel's value back from
the same corners.

Source: Adams, Baek, Davis 2010, "Fast High-Dimensional Filtering Using the Permutohedral Lattice".
"""

import torch
from torch import Tensor

from deeplab_lesson.crf.checks import check_normalization
from deeplab_lesson.crf.splat_blur_slice import SplatBlurSlice, number_cells


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
        ValueError: features so far apart, in units of sigma, that the lattice points cannot be numbered.
    """

    def __init__(self, features: Tensor, group: Tensor | None = None, *, normalization: str = "symmetric") -> None:
        check_normalization(normalization)
        base, rank, weights = enclosing_simplex(features)
        strides, keys = _corner_keys(base, rank, group)
        # Along each of the d + 1 directions one coordinate rises by d, and the others fall by 1.
        steps = [(features.shape[1] + 1) * stride - sum(strides) for stride in (*strides, 0)]
        super().__init__(keys, weights, steps, center=1, side=0.5, normalization=normalization)


def enclosing_simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the simplex of the lattice around each point.

    The lattice lies in the plane of d + 1 coordinates that sum to zero: its points are whole numbers that leave the
    same remainder when divided by d + 1. A point's simplex is named by its nearest point of remainder 0 and by the
    order of the coordinates of what is left.

    Args:
        features: float [P, d].

    Returns:
        base: int64 [d + 1, P], the corner of remainder 0.
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
    return nearest.long() * (d + 1), rank, weights


def _corner_keys(base: Tensor, rank: Tensor, group: Tensor | None) -> tuple[list[int], Tensor]:
    """Number the corners: d coordinates (the last is implied) as the digits of one integer.

    Returns:
        strides: d numbers, what one step of each coordinate adds.
        keys: int64 [P, d + 1], by remainder.
    """
    d = len(base) - 1
    base, rank = base[:d], rank[:d]
    low = base.amin(1) - 2 * (d + 1)  # room for the neighbors of all corners
    span = base.amax(1) - low + 3 * (d + 1)
    stride, first = number_cells(base - low[:, None], span, group)  # [d], [P]
    # From a corner to the next every coordinate rises by 1, and one of them, in order of rank, also falls by d + 1.
    falls = first.new_zeros(d + 2, len(first)).scatter_add_(0, d + 1 - rank, stride[:, None].expand_as(rank))
    remainder = torch.arange(d + 1, device=first.device)[:, None]
    keys = first + remainder * stride.sum() - (d + 1) * falls[: d + 1].cumsum(0)  # [d + 1, P]
    return [int(value) for value in stride], keys.T.contiguous()
