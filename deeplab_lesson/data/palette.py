"""Class names and color maps: how a class id becomes a word, and a color that people can tell apart."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

VOID = 255  # VOC's label for "not scored": contours and things nobody could decide

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train",
    "tv monitor",
)  # fmt: skip


def voc_palette() -> NDArray[np.uint8]:
    """Compute VOC's colors from the bits of the class id.

    Bits 0, 3, 6 of the id become the high bits of red, bits 1, 4, 7 those of green, bits 2, 5 those of blue:
    ids that differ in a low bit get colors that differ much.

    Returns:
        uint8 [256, 3]: RGB by class id. Row 0 (background) is black, row 255 (void) is cream (224, 224, 192).

    Source: the PASCAL VOC development kit, VOCcolormap.m.
    """
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            bit = (ids >> (3 * level + channel)) & 1
            palette[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return palette


VOC_PALETTE = voc_palette()


def colorize(labels: NDArray[np.integer], palette: NDArray[np.uint8] = VOC_PALETTE) -> NDArray[np.uint8]:
    """Turn class ids [H, W] into an RGB picture uint8 [H, W, 3].

    Raises:
        TypeError: ids that are no integers.
        ValueError: a palette that is not [K, 3], or ids without a color in it.
    """
    if palette.ndim != 2 or palette.shape[1] != 3:
        raise ValueError(f"the palette is {palette.shape}: allowed is (colors, 3), red, green and blue for each id")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"the labels are {labels.dtype}: allowed are integers, the class ids, such as uint8")
    if labels.size and not 0 <= labels.min() <= labels.max() < len(palette):
        raise ValueError(
            f"labels hold the ids {labels.min()} to {labels.max()}: allowed are 0 to {len(palette) - 1}, the rows of "
            "the palette; give a palette with a color for each id"
        )
    colors: NDArray[np.uint8] = palette[labels]
    return colors


def read_classes(path: Path) -> tuple[tuple[str, ...], NDArray[np.uint8] | None]:
    """Read classes.txt: a line for each class, either `name` or `id name red green blue`; id 255 is void.

    Lines that start with # are comments.

    Returns:
        The names in the order of their ids, and the palette uint8 [256, 3] where colors are given.

    Raises:
        ValueError: a line of another form, ids that do not count 0, 1, 2, ..., or a name or color given twice.
    """
    lines = [line.split() for line in read_lines(path) if not line.startswith("#")]
    palette: NDArray[np.uint8] | None = None
    if any(line[0].lstrip("-").isdecimal() for line in lines):
        found, palette = _numbered_classes(path, lines)
    else:
        found = {number: " ".join(line) for number, line in enumerate(lines)}
        if found and found[len(found) - 1].lower() == "void":
            found.popitem()
    names = tuple(found[number] for number in sorted(found))
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice or "void" in (name.lower() for name in names) or len(names) > VOID:
        raise ValueError(
            f"{path} names {len(names)} classes" + (f", {', '.join(twice)} twice" if twice else "") + ": allowed "
            "are 1 to 255 different names; void is no class (its id is 255): it stands in the last line or nowhere"
        )
    return names, palette


def _numbered_classes(path: Path, lines: list[list[str]]) -> tuple[dict[int, str], NDArray[np.uint8]]:
    palette = np.zeros((256, 3), dtype=np.uint8)
    found: dict[int, str] = {}
    seen: dict[tuple[int, ...], int] = {}
    for line in lines:
        try:
            number, name, color = int(line[0]), " ".join(line[1:-3]), tuple(int(value) for value in line[-3:])
            if not name or not 0 <= min(number, *color) <= max(number, *color) <= 255:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{path} has the line {' '.join(line)!r}: allowed is 'id name red green blue' with numbers "
                "from 0 to 255, or just names, one a line"
            ) from None
        if number in found or color in seen:
            what = f"the id {number}" if number in found else f"the color {color} of id {seen[color]}"
            raise ValueError(f"{path} has {what} again in the line {' '.join(line)!r}: give each class its own")
        found[number], seen[color], palette[number] = name, number, color
    found.pop(VOID, None)
    if sorted(found) != list(range(len(found))) or not found:
        raise ValueError(
            f"{path} names the ids {sorted(found)}: they must count 0, 1, 2, ... without a gap (255 is void)"
        )
    return found, palette


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file that are not empty, without the spaces around them."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # the Windows editor puts a mark before the first letter
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error.reason}): save it with the encoding UTF-8") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
