"""The one style of the chapters' figures, and pictures of labels that can be read without seeing colors."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deeplab_lesson.data.palette import VOC_PALETTE, VOID, colorize

if TYPE_CHECKING:  # matplotlib loads when a figure is drawn: the package stays light
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.0  # inches. At 100 dpi it fills the page's column of about 700 pixels, and text stays readable on a phone
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
LINE_STYLES = ("-", "--", "-.", ":", "-", "--", "-.")  # with the colors: a line is never told by its color alone
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MARK_DEPTH = 0.02  # of the shorter side: a region narrower than twice this has no room for its number
TINY = 64  # pixels of a label map that is worked out by hand: there, every pixel shows its id
MARK_SPACING = 0.25  # of the shorter side, between two numbers of one class


def use_style() -> None:
    """Set matplotlib's defaults for a chapter; in a notebook, also ask for pictures of twice the pixels."""
    from cycler import cycler
    from matplotlib import pyplot as plt

    lines = cycler(color=LINE_COLORS) + cycler(linestyle=LINE_STYLES) + cycler(marker=MARKERS)
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 200,
            "figure.figsize": (WIDTH, 0.5 * WIDTH),
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.family": "sans-serif",
            "font.size": 10.5,
            "axes.titlesize": 10.5,
            "legend.fontsize": 10,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#dddddd",
            "axes.axisbelow": True,
            "axes.prop_cycle": lines,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
            "image.interpolation": "nearest",
        }
    )
    _sharpen_inline_figures()


def _sharpen_inline_figures() -> None:
    """Let the notebook's own backend draw at 200 dpi, for a screen or page that shows it at half its size."""
    try:
        from IPython.core.getipython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:  # not in a notebook
        return
    if get_ipython() is None:  # type: ignore[no-untyped-call,unused-ignore]
        return
    if os.environ.get("DEEPLAB_STATIC") == "1":  # the page fits pictures to its width; a stated size would distort them
        set_matplotlib_formats("png", dpi=200)  # type: ignore[no-untyped-call,unused-ignore]
    else:
        set_matplotlib_formats("retina")  # type: ignore[no-untyped-call,unused-ignore]


def show(figure: Figure, *, alt: str, caption: str = "") -> None:
    """Show a figure in the notebook or on the page at twice the page's pixels, with words for who does not see it.

    It takes the place of `plt.show()`. The colors are exact, and a dark page does not change them.

    Args:
        alt: what the picture shows, in a sentence.
        caption: a line below it, for everyone.

    Raises:
        ValueError: an empty alt text.
    """
    from IPython.display import display

    from deeplab_lesson.notebook.frames import Shown, encode, figure_html, raster

    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the picture shows")
    line = repr(figure)  # <Figure size 600x300 with 2 Axes>: what a stored notebook keeps
    picture = encode(raster(figure)).html(alt)
    display(Shown(line, figure_html(picture, caption)))  # type: ignore[no-untyped-call,unused-ignore]


def panels(
    pictures: Sequence[Any],
    titles: Sequence[str],
    *,
    classes: Sequence[str] = (),
    palette: NDArray[np.uint8] = VOC_PALETTE,
    columns: int | None = None,
    marks: bool = True,
) -> Figure:
    """Draw pictures side by side, with one legend for all label maps among them.

    Args:
        pictures: arrays or tensors. uint8 [H, W, 3] is drawn as a picture, an integer [H, W] as a label map in the
            palette's colors.
        titles: one above each picture.
        classes: names by class id, for the legend; needed where there is a label map.
        palette: uint8 [256, 3], the color of each id.
        columns: pictures in a row; by default all in one row, or rows of three where there are more.
        marks: write class ids into the label maps, so that nobody depends on the colors.

    Returns:
        The figure. Its `axes` are in the order of the pictures, for what a chapter adds to them.

    Raises:
        ValueError: as many titles as pictures are needed; an array of another shape; label maps without `classes`.
    """
    from matplotlib import pyplot as plt

    arrays = [np.asarray(picture) for picture in pictures]
    if len(arrays) != len(titles) or not arrays:
        raise ValueError(f"{len(arrays)} pictures and {len(titles)} titles: give one title for each picture")
    maps = [array for array in arrays if _is_label_map(array)]
    if maps and not classes:
        raise ValueError("there are label maps but no class names: give classes=dataset.classes for the legend")
    columns = min(columns or 3, len(arrays))
    rows = math.ceil(len(arrays) / columns)
    height, width = arrays[0].shape[:2]
    inches = rows * (WIDTH / columns * height / width + 0.3) + 0.25 * math.ceil(len(_present(maps)) / 4)
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, inches), squeeze=False, layout="constrained")
    for axes in grid.flat:
        axes.axis("off")
    for axes, array, title in zip(grid.flat, arrays, titles, strict=False):
        axes.set_title(title)
        if _is_label_map(array):
            show_labels(axes, array, palette, marks=marks)
        else:
            axes.imshow(array, interpolation="nearest")
    if maps:
        class_legend(figure, maps, classes, palette)
    return figure


def show_labels(
    axes: Axes, labels: NDArray[np.integer], palette: NDArray[np.uint8] = VOC_PALETTE, *, marks: bool = True
) -> None:
    """Draw class ids [H, W] in the palette's colors, each pixel a square; void is the palette's last color."""
    from matplotlib import patheffects

    axes.imshow(colorize(labels, palette), interpolation="nearest")
    for row, column in _marked_points(labels) if marks else []:
        text = str(labels[row, column])
        number = axes.text(column, row, text, color="white", fontsize=8, ha="center", va="center")
        number.set_path_effects([patheffects.withStroke(linewidth=1.6, foreground="black")])


def _marked_points(labels: NDArray[np.integer]) -> list[tuple[int, int]]:
    """Where to write ids: at every pixel of a tiny map, else inside each region but background and void."""
    if labels.size <= TINY:
        return [(row, column) for row in range(labels.shape[0]) for column in range(labels.shape[1])]
    ids = [class_id for class_id in np.unique(labels).tolist() if class_id not in (0, VOID)]
    return [point for class_id in ids for point in interior_points(labels == class_id)]


def interior_points(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Find (row, column) of points deep inside a mask, far from each other: where a number can be written."""
    shorter = min(mask.shape)
    inside = np.pad(mask, 1)
    depth = np.zeros(inside.shape, dtype=np.int64)  # how many times a pixel survives the mask's erosion
    while inside.any():
        depth += inside
        core = inside[1:-1, 1:-1]
        neighbors = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        inside = np.pad(core & neighbors, 1)
    depth = depth[1:-1, 1:-1]
    rows, columns = np.indices(depth.shape)
    points: list[tuple[int, int]] = []
    while depth.max() > MARK_DEPTH * shorter:
        row, column = divmod(int(depth.argmax()), mask.shape[1])
        points.append((row, column))
        depth[np.hypot(rows - row, columns - column) < MARK_SPACING * shorter] = 0
    return points


def class_legend(
    figure: Figure,
    maps: Sequence[NDArray[np.integer]],
    classes: Sequence[str],
    palette: NDArray[np.uint8] = VOC_PALETTE,
) -> None:
    """Put one legend below the figure: color, id and name of each class that occurs in the label maps."""
    from matplotlib.patches import Patch

    patches = []
    for class_id in _present(maps):
        name = "void" if class_id == VOID else classes[class_id] if class_id < len(classes) else "(no class)"
        patches.append(Patch(facecolor=palette[class_id] / 255, edgecolor="black", label=f"{class_id} {name}"))
    columns = min(4, len(patches))
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, handlelength=1.2)


def _present(maps: Sequence[NDArray[np.integer]]) -> list[int]:
    """Ids that occur, void last."""
    return sorted({int(class_id) for array in maps for class_id in np.unique(array)})


def _is_label_map(array: NDArray[Any]) -> bool:
    if array.ndim == 2 and np.issubdtype(array.dtype, np.integer):
        return True
    if array.ndim == 3 and array.shape[2:] == (3,) and array.dtype == np.uint8:
        return False
    raise ValueError(
        f"a {array.dtype} array of shape {list(array.shape)}: allowed are pictures, uint8 [H, W, 3], and label maps, "
        "integers [H, W]; denormalize() turns a network's input back into a picture"
    )
