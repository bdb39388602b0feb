"""Reading and writing one picture or one label file, and saying clearly what is wrong with it."""

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from deeplab_lesson.data.palette import VOID

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def picture_files(folder: Path, endings: Sequence[str] = PICTURE_ENDINGS) -> list[Path]:
    """Return the files in a folder that end like pictures, sorted, without hidden ones (macOS writes ._name.jpg)."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in endings and not path.name.startswith(".") and path.is_file()
    )


def open_picture(path: Path) -> Image.Image:
    """Open and decode a picture file.

    Raises:
        FileNotFoundError: no such file.
        PermissionError: a file that may not be read.
        ValueError: not a picture, a truncated or an enormous one.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: check the name, or restore the file") from None
    except PermissionError:
        raise PermissionError(f"{path} may not be read by you: change its permissions, or copy it") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder: allowed is one picture file; give a file inside it") from None
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path} is too large to decode safely ({error}): reduce it first, or raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as a picture ({error}): it is corrupt, cut off, or no picture; "
            "allowed are whole JPEG, PNG, BMP, WebP or TIFF files; copy it anew or take it out of the set"
        ) from error


def read_image(path: Path, *, upright: bool = False) -> NDArray[np.uint8]:
    """Read a picture as RGB, uint8 [H, W, 3]. Gray (8 or 16 bits), CMYK and transparent pictures are converted.

    Args:
        upright: turn the picture as its EXIF orientation says (for photographs without a label file;
            a label file has no such note, so that a turned picture would no longer fit its label).

    Raises:
        ValueError: no picture, or one of floating point numbers, whose white is unknown.
    """
    picture = open_picture(path)
    if upright:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16 bits a pixel: Pillow's convert would turn all above 255 into white
        shades = np.array(picture).astype(np.int64) // 257  # 65535 is white
        picture = Image.fromarray(shades.clip(0, 255).astype(np.uint8))
    if picture.mode in ("F", "LAB"):
        raise ValueError(
            f"{path} is a picture in mode {picture.mode}: allowed are gray, palette, RGB, RGBA and CMYK pictures; "
            "save it as an RGB PNG"
        )
    return np.array(picture.convert("RGB"))


def read_label(path: Path, classes: Sequence[str], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Read a label file as class ids, uint8 [H, W], with 255 for void.

    A palette PNG (VOC's kind) and a gray PNG hold the ids themselves. An RGB file is translated by `palette`.

    Warns where a set of two classes has a mask of only 0 and 255: often white was meant to be class 1.

    Raises:
        ValueError: ids that are no class and not void, colors that are not in the palette, or a JPEG file.
    """
    picture = open_picture(path)
    if picture.format == "JPEG":
        raise ValueError(f"{path} is a JPEG, which changes values to save space: allowed are lossless labels; use PNG")
    if picture.mode in ("RGB", "RGBA"):
        return _ids_from_colors(np.array(picture.convert("RGB")), path, classes, palette)
    if picture.mode not in ("1", "L", "P") and not picture.mode.startswith("I"):
        raise ValueError(
            f"{path} is a label in mode {picture.mode}: allowed are palette, gray (L, I) and RGB files; "
            "save it as a palette PNG whose pixel values are the class ids"
        )
    ids = np.array(picture)
    counted = ids.dtype == np.uint8  # nearly always: np.unique would take longer than reading the file
    present = np.flatnonzero(np.bincount(ids.ravel())) if counted else np.unique(ids.astype(np.int64))
    if len(classes) == 2 and VOID in present and np.isin(present, [0, VOID]).all():
        warnings.warn(
            f"{path} holds only 0 and 255, and 255 is void, which counts nowhere: if white was meant to be class 1 "
            f"({classes[1]}), save the masks with 0 and 1",
            stacklevel=2,
        )
    wrong = np.setdiff1d(present, [*range(len(classes)), VOID])
    if wrong.size:
        raise ValueError(_unknown_ids_text(wrong, path, classes, palette))
    return ids.astype(np.uint8)


def _unknown_ids_text(wrong: NDArray[np.int64], path: Path, classes: Sequence[str], palette: NDArray[np.uint8]) -> str:
    seen = ", ".join(str(i) for i in wrong[:8]) + (", ..." if wrong.size > 8 else "")
    text = f"{path} holds label id {seen}: allowed are 0 to {len(classes) - 1} and 255 (void)"
    shades = Image.fromarray(palette[None]).convert("L")  # what a palette PNG turns into when saved as gray
    luma = np.array(shades)[0, [*range(len(classes)), VOID]]
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


def write_label(path: Path, ids: NDArray[np.uint8], palette: NDArray[np.uint8]) -> None:
    """Write class ids [H, W] as a palette PNG: the pixel values are the ids, the palette only shows them."""
    picture = Image.fromarray(ids)
    picture.putpalette(palette.tobytes())
    write_picture(path, picture)


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG or, by the ending .jpg, a JPEG; whole or not at all."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG", quality=95)
    write_atomically(path, buffer.getvalue())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, or leave it as it was.

    Raises:
        OSError: the disk is full or the folder cannot be written; says that the old file stands.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:  # after os.replace there is none; after an error or Ctrl-C there is
            temporary.unlink(missing_ok=True)
    except OSError as error:
        fate = "the file saved before is whole" if path.is_file() else "nothing was saved before"
        blocked = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "a file stands where a folder is needed" if blocked else error.strerror
        raise OSError(
            error.errno,
            f"{path} could not be written ({reason}, {len(content):,} bytes): {fate}; free some space or "
            "choose another folder, then repeat the command (a training goes on with resume)",
        ) from error
