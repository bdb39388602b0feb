"""High-dimensional Gaussian filtering on a sparse set of cells: splat, blur, slice, and what they have in common.

Each step is a sparse matrix times a table of rows, one row a pixel or a cell, one column a label. On a CPU
`embedding_bag` does this several times faster than a sparse matrix product or `index_add`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

BLOCK = 8192  # rows
MOST_KEY_BITS = 62  # of an int64
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
        keys: int64 [P, J], the numbers of the J cells that each point touches.
        weights: float [P, J], by how much.
        steps: the direction of each blur, as a difference of cell numbers.
        center, side: the weights of a blur, [side, center, side].
        normalization: "symmetric" or "after".

    Attributes:
        size: how many cells there are.
    """

    def __init__(
        self,
        keys: Tensor,
        weights: Tensor,
        steps: Sequence[int],
        *,
        center: float,
        side: float,
        normalization: str,
    ) -> None:
        points, touched = keys.shape
        sorted_keys, order = keys.view(-1).sort()
        weights = weights.view(-1)
        is_first = torch.ones_like(sorted_keys, dtype=torch.bool)
        is_first[1:] = sorted_keys[1:] != sorted_keys[:-1]
        start = is_first.nonzero()[:, 0]
        cells = sorted_keys[start]  # [M], rising
        self.size = len(cells)
        cell_of = torch.empty_like(order, dtype=torch.int32)
        cell_of[order] = is_first.cumsum(0, dtype=torch.int32) - 1
        first = torch.arange(0, points * touched, touched, dtype=torch.int32, device=keys.device)
        self._splat = WeightedRows((order // touched).int(), start.int(), weights[order])
        self._blur = [blur_rows(cells, step, center, side, weights.dtype) for step in steps]
        self._slice = WeightedRows(cell_of, first, weights.clone())
        self._after: Tensor | None = None  # [P, 1], 1 / D where only the rows are normalized
        self._normalize(normalization)

    def _normalize(self, normalization: str) -> None:
        """Fold 1 / D into the weights of splat and slice, where it costs nothing."""
        ones = self._slice.weight.new_ones(len(self._slice.start), 1)
        scale = 1 / (self._filter(ones) + TINY)  # [P, 1]
        if normalization == "symmetric":
            scale = scale.sqrt()
            self._splat.weight *= scale[self._splat.index, 0]
        else:
            self._after = scale
        self._slice.weight.view(len(scale), -1).mul_(scale)

    def __call__(self, values: Tensor) -> Tensor:
        """Filter values, [P, L] of the features' dtype."""
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


def number_cells(cells: Tensor, span: Tensor, group: Tensor | None) -> tuple[Tensor, Tensor]:
    """Number cells by an integer whose digits are their coordinates, with the group as the highest digit.

    Args:
        cells: int64 [d, P], each coordinate from 0 to below its span.
        span: int64 [d].
        group: int64 [P], or None for one group.

    Returns:
        strides: int64 [d], what one step of each coordinate adds to the number.
        keys: int64 [P].

    Raises:
        ValueError: more cells than an integer can number.
    """
    groups = 1 if group is None else int(group.max()) + 1
    bits = float(span.double().log2().sum()) + groups.bit_length()
    if not bits <= MOST_KEY_BITS:
        raise ValueError(
            f"numbering the cells takes {bits:.0f} bits, and a number has {MOST_KEY_BITS}: the features spread over "
            f"{span.tolist()} cells; take a larger sigma (those of colors are in units of 0 to 255)"
        )
    strides = torch.cat([torch.ones_like(span[:1]), span[:-1].cumprod(0)])
    keys = (cells * strides[:, None]).sum(0)
    return strides, keys if group is None else keys + group * (strides[-1] * span[-1])


def blur_rows(cells: Tensor, step: int, center: float, side: float, dtype: torch.dtype) -> WeightedRows:
    """Build [side, center, side] along one direction. A cell that nothing touches is left out.

    Args:
        cells: int64 [M], numbers of the cells, rising.
        step: from a cell's number to its neighbor's.
    """
    size, device = len(cells), cells.device
    here = torch.arange(size, device=device, dtype=torch.int32)
    wanted = cells + step
    found = torch.searchsorted(cells, wanted, out_int32=True).clamp_(max=size - 1)
    has_next = cells[found] == wanted
    neighbor = found[has_next]
    has_previous = torch.zeros_like(has_next)
    has_previous[neighbor] = True
    end = (1 + has_next.int() + has_previous.int()).cumsum(0, dtype=torch.int32)
    start = F.pad(end[:-1], (1, 0))
    index = here.new_empty(int(end[-1]))
    weight = torch.full(index.shape, side, dtype=dtype, device=device)
    weight[start] = center
    index[start] = here
    index[start[has_next] + 1] = neighbor
    index[end[has_previous] - 1] = here[has_next]  # numbers rise, so both lists are in one order
    return WeightedRows(index, start, weight)
