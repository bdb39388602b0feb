"""Drawings that several chapters need: where a kernel reads, how often positions are read, maps of features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deeplab_lesson.layers.atrous import effective_kernel_size
from deeplab_lesson.notebook.figures import LINE_COLORS, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TAP, MIDDLE = LINE_COLORS[0], LINE_COLORS[1]
HOLE = "#ffffff"
GRID = "#999999"
READABLE = 17  # positions a side: with more, a number does not fit into its cell


def kernel_diagram(kernels: Sequence[tuple[int, int]], *, size: int | None = None) -> Figure:
    """Draw square kernels side by side on a grid of pixels: which pixels one output position reads.

    Args:
        kernels: (kernel size, rate) of each.
        size: pixels a side of the grid; by default what the widest kernel spans, and one more on each side.

    Returns:
        The figure. A tap is a filled cell with a dot, the tap of the output's own position a square in another color.

    Raises:
        ValueError: no kernel, or one that spans more than `size`.
    """
    from matplotlib import pyplot as plt

    spans = [effective_kernel_size(kernel, rate) for kernel, rate in kernels]
    if not spans:
        raise ValueError("kernels is empty: give pairs of kernel size and rate, such as [(3, 1), (3, 2)]")
    size = max(spans) + 2 if size is None else size
    if max(spans) > size:
        kernel, rate = kernels[spans.index(max(spans))]
        raise ValueError(
            f"a kernel of {kernel} at rate {rate} spans {max(spans)} pixels, the grid has {size}: "
            f"give size={max(spans)} or more"
        )
    width = WIDTH / max(len(kernels), 2)
    figure, grid = plt.subplots(
        1, len(kernels), figsize=(width * len(kernels), width + 0.45), squeeze=False, layout="constrained"
    )
    for axes, (kernel, rate), span in zip(grid.flat, kernels, spans, strict=True):
        first = (size - span) // 2
        taps = [first + rate * tap for tap in range(kernel)]
        draw_taps(axes, (size, size), [(row, column) for row in taps for column in taps])
        axes.set_title(f"{kernel}×{kernel}, rate {rate}\nspans {span}, reads {kernel**2}")
    return figure


def draw_taps(axes: Axes, size: tuple[int, int], taps: Sequence[tuple[int, int]]) -> None:
    """Draw a grid of pixels [H, W] and mark those that are read, (row, column) each; those outside are left out.

    The tap in the middle of the list is drawn as the output's own position where their number is odd.
    """
    height, width = size
    _empty_grid(axes, height, width)
    middle = len(taps) // 2 if len(taps) % 2 else -1
    for place, (row, column) in enumerate(taps):
        if not (0 <= row < height and 0 <= column < width):
            continue
        own = place == middle
        _fill(axes, row, column, MIDDLE if own else TAP)
        axes.plot(column, row, marker="s" if own else "o", color="white", markersize=max(1.5, 32 / max(size)))


def count_grid(axes: Axes, counts: Any) -> None:
    """Draw whole numbers [H, W] as a grid of cells: darker for more, hatched for 0, with the number where it fits.

    For `gridding_coverage` and `valid_weight_counts`: holes can be told by their hatching and not only by color.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    array = np.asarray(counts)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer) or array.min(initial=0) < 0:
        raise ValueError(
            f"counts are {array.dtype} of shape {list(array.shape)}: allowed are whole numbers from 0, [H, W]"
        )
    _empty_grid(axes, *array.shape)
    most = max(1, int(array.max(initial=0)))
    for (row, column), count in np.ndenumerate(array):
        if not count:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=HOLE, edgecolor=GRID, hatch="////", linewidth=0))
            continue
        color = colormaps["Blues"](0.15 + 0.75 * count / most)
        _fill(axes, row, column, color)
        if max(array.shape) <= READABLE:
            ink = "black" if sum(color[:3]) > 1.5 else "white"
            font = min(10, 110 / max(array.shape))
            axes.text(column, row, str(count), color=ink, ha="center", va="center", fontsize=font)


def feature_maps(
    features: Any, titles: Sequence[str] = (), *, columns: int = 4, one_scale: bool = True, label: str = "activation"
) -> Figure:
    """Draw the channels of a feature map side by side.

    Args:
        features: an array or tensor [C, H, W] of numbers.
        titles: one for each channel; by default their numbers.
        columns: maps in a row.
        one_scale: all maps in one scale of colors, so that they can be compared; otherwise each in its own.
        label: what the numbers are, for the scale's bar.

    Returns:
        The figure; its first C axes are the maps. Where values lie on both sides of zero, zero is white, orange is
        below and purple above; otherwise the scale is viridis. Both can be read without seeing red from green.

    Raises:
        ValueError: another shape, values that are not finite, or titles that do not fit.
    """
    from matplotlib import pyplot as plt

    detached = features.detach().cpu() if hasattr(features, "detach") else features
    maps = np.asarray(detached, dtype=np.float64)
    if maps.ndim != 3 or not maps.size:
        raise ValueError(
            f"features of shape {list(maps.shape)}: allowed are [C, H, W]; for one of a batch, features[0]"
        )
    if not np.isfinite(maps).all():
        raise ValueError(f"{np.sum(~np.isfinite(maps))} of {maps.size} values are not finite: they have no color")
    if titles and len(titles) != len(maps):
        raise ValueError(f"{len(maps)} channels and {len(titles)} titles: give one title for each channel")
    columns = min(columns, len(maps))
    rows = math.ceil(len(maps) / columns)
    shape = maps.shape[1] / maps.shape[2]
    inches = rows * ((WIDTH - 0.8) / columns * shape + 0.3)
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, inches), squeeze=False, layout="constrained")
    for axes in grid.flat:
        axes.axis("off")
    for place, (axes, one) in enumerate(zip(grid.flat, maps, strict=False)):
        image = axes.imshow(one, interpolation="nearest", **_scale(maps if one_scale else one))
        axes.set_title(titles[place] if titles else f"channel {place}")
        if not one_scale:
            figure.colorbar(image, ax=axes, shrink=0.8)
    if one_scale:
        figure.colorbar(image, ax=list(grid.flat), label=label, shrink=0.9)
    return figure


def _scale(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    low, high = float(values.min()), float(values.max())
    if low < 0 < high:
        far = max(-low, high)
        return {"cmap": "PuOr", "vmin": -far, "vmax": far}
    return {"cmap": "viridis", "vmin": low, "vmax": high}


def _empty_grid(axes: Axes, height: int, width: int) -> None:
    """Pixels as cells, row 0 at the top, without ticks."""
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.vlines(np.arange(width + 1) - 0.5, -0.5, height - 0.5, color=GRID, linewidth=0.6, clip_on=False)
    axes.hlines(np.arange(height + 1) - 0.5, -0.5, width - 0.5, color=GRID, linewidth=0.6, clip_on=False)


def _fill(axes: Axes, row: int, column: int, color: Any) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, edgecolor=GRID, linewidth=0.6))
