"""Labels as colors over the picture, outlines of objects, and a legend."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from deeplab_lesson.data.palette import VOC_PALETTE, VOID, colorize
from deeplab_lesson.data.transforms import check_pair, check_picture
from deeplab_lesson.layers.checks import is_whole

OUTLINE_COLOR = (255, 255, 255)


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    palette: NDArray[np.uint8] = VOC_PALETTE,
    *,
    opacity: float = 0.55,
) -> NDArray[np.uint8]:
    """Lay the colors of the labels over the picture. Black classes (VOC's background) and void leave it as it is.

    Raises:
        TypeError: a picture that is not uint8, labels that are no integers.
        ValueError: other shapes, ids without a color, an opacity outside of 0 to 1.
    """
    _check_one_size(image, labels)
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity={opacity}: allowed are numbers from 0 (the picture alone) to 1 (the colors alone)")
    colors = colorize(labels, palette)
    shown = (colors.any(axis=2) & (labels != VOID))[..., None]
    mixed = (1 - opacity) * image + opacity * colors
    result: NDArray[np.uint8] = np.where(shown, mixed, image).round().astype(np.uint8)
    return result


def outline(
    picture: NDArray[np.uint8], instances: NDArray[np.integer], color: tuple[int, int, int] = OUTLINE_COLOR
) -> NDArray[np.uint8]:
    """Draw a line just inside each object: its pixels that have a neighbor of another object or of none.

    Args:
        picture: uint8 [H, W, 3].
        instances: [H, W], 0 where there is no object.

    Raises:
        TypeError: a picture that is not uint8.
        ValueError: other shapes, or a color that is none.
    """
    _check_one_size(picture, instances)
    channels: Sequence[int] = color
    if len(channels) != 3 or not all(is_whole(value) and 0 <= value <= 255 for value in channels):
        raise ValueError(f"color={color!r}: allowed are three whole numbers from 0 to 255, red, green and blue")
    edge = np.zeros(instances.shape, dtype=bool)
    across, down = instances[:, 1:] != instances[:, :-1], instances[1:] != instances[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    result = picture.copy()
    result[edge & (instances > 0)] = color
    return result


def with_legend(
    picture: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    classes: Sequence[str],
    palette: NDArray[np.uint8],
    instances: NDArray[np.integer] | None = None,
) -> NDArray[np.uint8]:
    """Put a column at the right of the picture: color, name and share of each class in it, largest first.

    Args:
        instances: [H, W], 0 where there is no object; the legend then also counts the objects of each class.

    Raises:
        TypeError: a picture that is not uint8, labels or instances that are no integers.
        ValueError: other shapes, or a palette without a color for each class.
    """
    for ids in (labels,) if instances is None else (labels, instances):
        check_pair(picture, ids)
    if palette.ndim != 2 or palette.shape[1] != 3 or len(palette) < len(classes) or palette.dtype != np.uint8:
        raise ValueError(
            f"the palette is {palette.dtype} {palette.shape}: allowed is uint8 (colors, 3), a color for each of "
            f"{len(classes)} classes"
        )
    counts = np.bincount(labels[labels < len(classes)], minlength=len(classes))
    present = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    size = max(11, min(28, picture.shape[0] // 28))
    font = ImageFont.load_default(size)
    lines = [
        f"{classes[i]} {100 * counts[i] / counts.sum():.1f} %{_object_count(labels, instances, i)}" for i in present
    ]
    line_height = round(1.7 * size)
    width = 3 * size + max((round(font.getlength(line)) for line in lines), default=0)
    height = max(picture.shape[0], line_height * len(lines) + size)
    page = Image.new("RGB", (picture.shape[1] + width, height), "white")
    page.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(page)
    for row, (class_id, line) in enumerate(zip(present, lines, strict=True)):
        top, left = row * line_height + size // 2, picture.shape[1] + size // 2
        draw.rectangle((left, top, left + size, top + size), tuple(palette[class_id].tolist()), "black")
        draw.text((left + 1.6 * size, top + size / 2), line, "black", font, anchor="lm")
    return np.array(page)


def class_colors(metadata: dict[str, Any]) -> tuple[list[str], NDArray[np.uint8]]:
    """Return a checkpoint's class names and its palette, uint8 [256, 3].

    Raises:
        ValueError: the description holds no names or colors, or not one for each class.
    """
    palette = VOC_PALETTE.copy()
    count = metadata["model"].get("num_classes")
    try:
        classes = [str(name) for name in metadata["classes"]]
        colors = np.array(metadata["palette"]).astype(np.int64).reshape(-1, 3)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"the checkpoint names no classes or no colors ({error}): save it with both") from error
    if not ((colors >= 0) & (colors <= 255)).all():
        raise ValueError(f"the checkpoint's colors are {colors.min()} to {colors.max()}: allowed are 0 to 255")
    if not len(classes) == len(colors) == count:
        raise ValueError(
            f"the checkpoint names {len(classes)} classes and {len(colors)} colors for a model of {count} classes: "
            "all three must be the same; save it with a name and a color for each class"
        )
    palette[: len(colors)] = colors
    return classes, palette


def _check_one_size(image: NDArray[np.uint8], labels: NDArray[np.integer]) -> None:
    check_picture(image)
    if image.shape != (*labels.shape, 3):
        raise ValueError(
            f"the image is {list(image.shape)} and the labels {list(labels.shape)}: allowed are [H, W, 3] and [H, W] "
            "of one size; resize the labels with resize_labels"
        )


def _object_count(labels: NDArray[np.uint8], instances: NDArray[np.integer] | None, class_id: int) -> str:
    """For example ", 3 objects"; empty where none are counted."""
    if instances is None:
        return ""
    count = np.count_nonzero(np.unique(instances[labels == class_id]))
    return f", {count} object{'s' if count > 1 else ''}" if count else ""
