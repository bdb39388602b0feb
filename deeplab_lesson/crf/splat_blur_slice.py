"""High-dimensional Gaussian filtering on a sparse set of cells: splat, blur, slice, and what they have in common.

Each step is a sparse matrix times a table of rows, one row a pixel or a cell, one column a label. On a CPU
`embedding_bag` does this several times faster than a sparse matrix product or `index_add`.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from deeplab_lesson.crf.checks import check_values

BLOCK = 8192  # rows
MOST_KEY_BITS = 62  # of an int64
Neighbors = Callable[[Tensor], Iterable[Tensor]]
TINY = 1e-20  # pydensecrf's guard against a row sum of zero


class WeightedRows:
    """A sparse matrix: out[k] is the sum of weight[t] table[index[t]] for t from start[k] to start[k + 1]."""

    def __init__(self, index: Tensor, start: Tensor, weight: Tensor) -> None:
        self.index, self.start, self.weight = index, start, weight

    def __call__(self, table: Tensor) -> Tensor:
        return F.embedding_bag(self.index, table, self.start, mode="sum", per_sample_weights=self.weight)

    def add_to(self, base: Tensor, table: Tensor, factor: Tensor, out: Tensor) -> None:
        """Write base + factor times the product into `out`, some rows at a time: a block stays in the cache.

        A fresh table of the whole result would cost a page fault every 4 KB, more than the product itself.
        """
        for rows, block in self._blocks:
            torch.addcmul(base[rows], block(table), factor, out=out[rows])

    @functools.cached_property
    def _blocks(self) -> list[tuple[slice, WeightedRows]]:
        ends = [*self.start[::BLOCK].tolist(), len(self.index)]
        blocks = []
        for number, (begin, end) in enumerate(itertools.pairwise(ends)):
            rows = slice(number * BLOCK, min((number + 1) * BLOCK, len(self.start)))
            part = slice(begin, end)
            blocks.append((rows, WeightedRows(self.index[part], self.start[rows] - begin, self.weight[part])))
        return blocks


class SplatBlurSlice:
    """A normalized kernel between points as an operator on their values, with its gradient.

    `kernel(values)` maps [P, L] to K values, where K = D^-1/2 k D^-1/2 ("symmetric") or D^-1 k ("after"), and D holds
    the row sums of k. It is linear, and differentiable in the values. It has no gradient for the features: cells are
    found by rounding.

    Args:
        keys: int [P, J], the numbers of the J cells that each point touches.
        weights: float [P, J], by how much.
        neighbors: for each blur, from the numbers of cells to those of their neighbors.
        center, side: the weights of a blur, [side, center, side].
        normalization: "symmetric" or "after".

    Attributes:
        size: how many cells there are.
    """

    def __init__(
        self,
        keys: Tensor,
        weights: Tensor,
        neighbors: Neighbors,
        *,
        center: float,
        side: float,
        normalization: str,
    ) -> None:
        points, touched = keys.shape
        sorted_keys, order = keys.view(-1).sort()
        is_first = torch.ones_like(sorted_keys, dtype=torch.bool)
        is_first[1:] = sorted_keys[1:] != sorted_keys[:-1]
        start = is_first.nonzero()[:, 0]
        cells = sorted_keys[start]  # [M], rising
        self.size = len(cells)
        cell_of = torch.empty_like(order, dtype=torch.int32)
        cell_of.scatter_(0, order, is_first.cumsum(0, dtype=torch.int32) - 1)
        # One row more than cells, of nothing: a table with a zero for each neighbor that is missing.
        ends = F.pad(start, (0, 1), value=points * touched).int()
        point_of = order.int() // touched
        first = torch.arange(0, points * touched, touched, dtype=torch.int32, device=keys.device)
        self._splat = WeightedRows(point_of, ends, weights.view(-1).index_select(0, order))
        self._blur = _blurs(cells, neighbors, center, side, weights.dtype)
        self._slice = WeightedRows(cell_of, first, weights.view(-1).clone())
        self._after: Tensor | None = None  # [P, 1], 1 / D where only the rows are normalized
        self._normalize(normalization)

    def _normalize(self, normalization: str) -> None:
        """Fold 1 / D into the weights of splat and slice, where it costs nothing."""
        ones = self._slice.weight.new_ones(len(self._slice.start), 1)
        scale = 1 / (self._filter(ones) + TINY)  # [P, 1]
        if normalization == "symmetric":
            scale = scale.sqrt()
            self._splat.weight *= scale[:, 0].index_select(0, self._splat.index)
        else:
            self._after = scale
        self._slice.weight.view(len(scale), -1).mul_(scale)

    def __call__(self, values: Tensor) -> Tensor:
        """Filter values, [P, L] of the features' dtype; others are refused (`check_values`)."""
        check_values(values, len(self._slice.start), self._slice.weight)
        result: Tensor = _Filter.apply(values, self)  # type: ignore[no-untyped-call]
        return result

    def add_to(self, base: Tensor, values: Tensor, factor: Tensor, out: Tensor) -> None:
        """Write base + factor K values into `out`, without a gradient."""
        self._slice.add_to(base, self._splat_and_blur(values), factor, out)

    def _splat_and_blur(self, values: Tensor) -> Tensor:
        values = self._splat(values)
        for blur in self._blur:
            values = blur(values)
        return values

    def _filter(self, values: Tensor) -> Tensor:
        return self._slice(self._splat_and_blur(values))

    def _filter_transposed(self, values: Tensor) -> Tensor:
        """Multiply by the transpose: missing cells keep the blurs from commuting, so their order turns."""
        if self._after is not None:
            values = values * self._after
        values = self._splat(values)
        for blur in reversed(self._blur):
            values = blur(values)
        values = self._slice(values)
        return values if self._after is None else values / self._after


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, kernel: SplatBlurSlice) -> Tensor:
        ctx.kernel = kernel
        return kernel._filter(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.kernel._filter_transposed(gradient.contiguous()), None


def number_cells(cells: Tensor, span: Tensor, group: Tensor | None, lowest: int = 1) -> tuple[list[int], Tensor]:
    """Number cells by an integer whose digits are their coordinates, with the group as the highest digit.

    Args:
        cells: int64 [d, P], each coordinate from 0 to below its span.
        span: int64 [d].
        group: int64 [P], or None for one group.
        lowest: what one step of the first coordinate adds; the caller has smaller numbers to add.

    Returns:
        strides: d numbers, what one step of each coordinate adds.
        keys: [P], int32 if that holds all numbers (they are sorted in half the time), else int64.

    Raises:
        ValueError: more cells than an integer can number.
    """
    groups = 1 if group is None else int(group.max()) + 1
    bits = float(span.double().log2().sum()) + math.log2(groups * lowest)
    if not bits <= MOST_KEY_BITS:
        raise ValueError(
            f"numbering the cells takes {bits:.0f} bits, and a number has {MOST_KEY_BITS}: the features spread over "
            f"{span.tolist()} cells; take a larger sigma (those of colors are in units of 0 to 255)"
        )
    *strides, whole = itertools.accumulate(span.tolist(), operator.mul, initial=lowest)
    kind = torch.int32 if whole * groups < 2**31 else torch.int64
    keys = torch.zeros_like(cells[0], dtype=kind) if group is None else (group * whole).to(kind)
    for coordinate, stride in zip(cells, strides, strict=True):
        keys += coordinate.to(kind) * stride
    return strides, keys


def _blurs(cells: Tensor, neighbors: Neighbors, center: float, side: float, dtype: torch.dtype) -> list[WeightedRows]:
    """Build [side, center, side] along each direction, for tables of M + 1 rows whose last one is zero and stays so.

    Args:
        cells: int [M], numbers of the cells, rising.
    """
    size, device = len(cells), cells.device
    here = torch.arange(size + 1, device=device, dtype=torch.int32)
    start = torch.arange(0, 3 * size + 1, 3, device=device, dtype=torch.int32)  # the last row adds up nothing
    weight = torch.tensor([center, side, side], dtype=dtype, device=device).repeat(size)
    blurs = []
    for wanted in neighbors(cells):
        found = torch.searchsorted(cells, wanted).clamp_(max=size - 1)
        following = found.masked_fill_(cells.index_select(0, found) != wanted, size)
        preceding = torch.full_like(here, size).scatter_(0, following, here[:size])
        index = torch.stack([here[:size], following.int(), preceding[:size]], 1)
        blurs.append(WeightedRows(index.view(-1), start, weight))
    return blurs
