"""Reading and writing one picture or one label file, and saying clearly what is wrong with it."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from deeplab_lesson.data.palette import VOID

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def open_picture(path: Path) -> Image.Image:
    """Open and decode a picture file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture, or a truncated one.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: check the name, or restore the file") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as a picture ({error}): it is corrupt, cut off, or no picture; "
            "allowed are whole JPEG, PNG, BMP, WebP or TIFF files; copy it anew or take it out of the set"
        ) from error


def read_image(path: Path, *, upright: bool = False) -> NDArray[np.uint8]:
    """Read a picture as RGB, uint8 [H, W, 3]. Gray, CMYK and transparent pictures are converted.

    Args:
        upright: turn the picture as its EXIF orientation says (for photographs without a label file;
            a label file has no such note, so that a turned picture would no longer fit its label).
    """
    picture = open_picture(path)
    if upright:
        picture = ImageOps.exif_transpose(picture)
    return np.array(picture.convert("RGB"))


def read_label(path: Path, classes: Sequence[str], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Read a label file as class ids, uint8 [H, W], with 255 for void.

    A palette PNG (VOC's kind) and a gray PNG hold the ids themselves. An RGB file is translated by `palette`.

    Raises:
        ValueError: ids that are no class and not void, or colors that are not in the palette.
    """
    picture = open_picture(path)
    if picture.mode in ("RGB", "RGBA"):
        return _ids_from_colors(np.array(picture.convert("RGB")), path, classes, palette)
    ids = np.array(picture).astype(np.int64)
    if ids.ndim != 2:
        raise ValueError(
            f"{path} is a label in mode {picture.mode}: allowed are palette, gray (L, I) and RGB files; "
            "save it as a palette PNG whose pixel values are the class ids"
        )
    wrong = np.setdiff1d(ids, [*range(len(classes)), VOID])
    if wrong.size:
        raise ValueError(_unknown_ids_text(wrong, path, classes, palette))
    return ids.astype(np.uint8)


def _unknown_ids_text(wrong: NDArray[np.int64], path: Path, classes: Sequence[str], palette: NDArray[np.uint8]) -> str:
    seen = ", ".join(str(i) for i in wrong[:8]) + (", ..." if wrong.size > 8 else "")
    text = f"{path} holds label id {seen}: allowed are 0 to {len(classes) - 1} and 255 (void)"
    shades = Image.fromarray(palette[None]).convert("L")  # what a palette PNG turns into when saved as gray
    luma = np.array(shades)[0, : len(classes)]
    if np.isin(wrong, luma).all():
        return text + (
            "; these are the gray shades of the palette's colors, so the palette PNG was converted to gray "
            "somewhere: keep the original file, and never call .convert('L') on a label"
        )
    return text + (
        "; correct the file, or name all classes (classes.txt, or classes=...), "
        "or give the set's color map if the file was painted in colors"
    )


def _ids_from_colors(
    colors: NDArray[np.uint8], path: Path, classes: Sequence[str], palette: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    codes = colors.astype(np.int64) @ np.array([65536, 256, 1])  # one number a color
    known = palette.astype(np.int64) @ np.array([65536, 256, 1])
    ids = np.array([*range(len(classes)), VOID])
    order = np.argsort(known[ids], kind="stable")
    place = np.searchsorted(known[ids][order], codes).clip(max=len(ids) - 1)
    found = ids[order][place]
    unknown = np.unique(codes[known[found] != codes])
    if unknown.size:
        seen = ", ".join(f"({c >> 16}, {c >> 8 & 255}, {c & 255})" for c in unknown[:4].tolist())
        raise ValueError(
            f"{path} is an RGB label with {unknown.size} colors that no class has, such as {seen}: allowed are "
            "the colors of the set's palette; give its color map in classes.txt (lines 'id name red green blue'), "
            "and save labels as PNG (JPEG and smooth resizing invent colors)"
        )
    ids_found: NDArray[np.uint8] = found.astype(np.uint8)
    return ids_found


def read_classes(path: Path) -> tuple[tuple[str, ...], NDArray[np.uint8] | None]:
    """Read classes.txt: a line for each class, either `name` or `id name red green blue`; id 255 is void.

    Returns:
        The names in the order of their ids, and the palette uint8 [256, 3] where colors are given.

    Raises:
        ValueError: a line of another form, or ids that do not count 0, 1, 2, ...
    """
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not any(line[0].isdigit() for line in lines):
        names = tuple(" ".join(line) for line in lines)
        return tuple(name for name in names if name.lower() != "void"), None
    palette = np.zeros((256, 3), dtype=np.uint8)
    found: dict[int, str] = {}
    for line in lines:
        try:
            number, name, color = int(line[0]), " ".join(line[1:-3]), [int(value) for value in line[-3:]]
            if not name or len(color) != 3:
                raise ValueError("fewer than five words")
            palette[number] = color
        except (ValueError, IndexError, OverflowError) as error:
            raise ValueError(
                f"{path} has the line {' '.join(line)!r} ({error}): allowed is 'id name red green blue' with numbers "
                "from 0 to 255, or just names, one a line"
            ) from error
        found[number] = name
    found.pop(VOID, None)
    if sorted(found) != list(range(len(found))) or not found:
        raise ValueError(
            f"{path} names the ids {sorted(found)}: they must count 0, 1, 2, ... without a gap (255 is void)"
        )
    return tuple(found[i] for i in range(len(found))), palette


def write_label(path: Path, ids: NDArray[np.uint8], palette: NDArray[np.uint8]) -> None:
    """Write class ids [H, W] as a palette PNG: the pixel values are the ids, the palette only shows them."""
    picture = Image.fromarray(ids)
    picture.putpalette(palette.tobytes())
    write_picture(path, picture)


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG or, by the ending .jpg, a JPEG; whole or not at all."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG" if path.suffix == ".jpg" else "PNG", quality=95)
    write_atomically(path, buffer.getvalue())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, or leave it as it was.

    Raises:
        OSError: the disk is full or the folder cannot be written; says that the old file stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        fate = "the file saved before is whole" if path.exists() else "nothing was saved before"
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror}, {len(content):,} bytes): {fate}; "
            "free some space or choose another folder, then go on with resume",
        ) from error
