"""From a picture to its labels, and to a picture of them that people can read."""

import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from deeplab_lesson.data.files import PICTURE_ENDINGS, picture_files, read_image, write_label, write_picture
from deeplab_lesson.data.palette import VOC_PALETTE, VOID, colorize
from deeplab_lesson.data.transforms import normalize
from deeplab_lesson.layers.resize import resize_labels
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training.checkpoint import load_checkpoint
from deeplab_lesson.training.evaluation import evaluating


@torch.inference_mode()
def predict(model: SegmentationModel, image: NDArray[np.uint8], *, short_side: int | None = None) -> NDArray[np.uint8]:
    """Label one picture.

    Args:
        model: put into eval mode for the call, and back afterwards.
        image: uint8 [H, W, 3], RGB, as `Image.open` or a data set gives it: not normalized.
        short_side: show the model the picture with this many pixels on its short side, and enlarge or reduce the
            labels again; None shows it as it is.

    Returns:
        Class ids, uint8 [H, W].

    Raises:
        TypeError: not uint8.
        ValueError: not [H, W, 3].
    """
    seen = getattr(image, "dtype", type(image).__name__)
    if seen != np.uint8:
        raise TypeError(
            f"the image is {seen}: allowed is uint8 RGB from 0 to 255, np.array(Image.open(...).convert('RGB'))"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"the image has the shape {image.shape}: allowed is (height, width, 3)")
    shown = image if short_side is None else _scaled(image, short_side)
    with evaluating(model):
        logits = model(normalize(shown)[None].to(next(model.parameters()).device))  # [1, C, h, w]
    labels = logits[0].argmax(dim=0).to(torch.uint8)  # [h, w]
    if short_side is not None:
        labels = resize_labels(labels, image.shape[:2])  # [H, W]
    result: NDArray[np.uint8] = labels.cpu().numpy()
    return result


def _scaled(image: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    size = tuple(int(short_side * side / min(height, width)) for side in (width, height))
    return np.array(Image.fromarray(image).resize((size[0], size[1]), Image.Resampling.BILINEAR))


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    palette: NDArray[np.uint8] = VOC_PALETTE,
    *,
    opacity: float = 0.55,
) -> NDArray[np.uint8]:
    """Lay the colors of the labels over the picture. Black classes (VOC's background) and void leave it as it is."""
    if image.shape != (*labels.shape, 3):
        raise ValueError(
            f"the image is {list(image.shape)} and the labels {list(labels.shape)}: allowed are [H, W, 3] and [H, W] "
            "of one size; resize the labels with resize_labels"
        )
    colors = colorize(labels, palette)
    shown = (colors.any(axis=2) & (labels != VOID))[..., None]
    mixed = (1 - opacity) * image + opacity * colors
    result: NDArray[np.uint8] = np.where(shown, mixed, image).round().astype(np.uint8)
    return result


def with_legend(
    picture: NDArray[np.uint8], labels: NDArray[np.uint8], classes: Sequence[str], palette: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Put a column at the right of the picture: color, name and share of each class in it, largest first."""
    counts = np.bincount(labels[labels < len(classes)], minlength=len(classes))
    present = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    size = max(11, min(28, picture.shape[0] // 28))
    font = ImageFont.load_default(size)
    lines = [f"{classes[i]} {100 * counts[i] / counts.sum():.1f} %" for i in present]
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


def find_pictures(inputs: Iterable[str | Path]) -> list[Path]:
    """Return the picture files that files, folders and globs name, each once.

    Raises:
        FileNotFoundError: an input that names no picture.
    """
    found: dict[Path, Path] = {}
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = picture_files(path)
        elif path.exists():
            files = [path]
        else:
            named = sorted(Path(name) for name in glob.glob(str(given), recursive=True))
            files = [file for file in named if file.is_file() and file.suffix.lower() in PICTURE_ENDINGS]
        if not files:
            raise FileNotFoundError(
                f"{given} names no picture: allowed are files, folders and globs; pictures end in "
                f"{', '.join(PICTURE_ENDINGS)}"
            )
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def predict_files(
    checkpoint: str | Path, inputs: Iterable[str | Path], out: str | Path, *, device: str = "cpu"
) -> Iterator[tuple[Path, Path]]:
    """Label picture files: for each a palette PNG of class ids, name.png, and name_overlay.png with a legend.

    Yields:
        The picture and the label file written for it, one after the other.

    Raises:
        FileNotFoundError: no checkpoint, or an input that names no picture.
        ValueError: a file that is no picture, two pictures whose results would have one name, or a result that
            would overwrite a file that no prediction has written.
    """
    yield from predict_files_with(*load_checkpoint(checkpoint, device=device), inputs, out)


def predict_files_with(
    model: SegmentationModel, metadata: dict[str, Any], inputs: Iterable[str | Path], out: str | Path
) -> Iterator[tuple[Path, Path]]:
    """Do what `predict_files` does with a model that is loaded already.

    Args:
        metadata: as `load_checkpoint` returns it; a `short_side` in it is handed to `predict`.
    """
    classes, palette = class_colors(metadata)
    pictures = find_pictures(inputs)
    results = [[Path(out) / f"{path.stem}{end}.png" for end in ("", "_overlay")] for path in pictures]
    _refuse_losses(pictures, results)
    for path, (target, overlaid) in zip(pictures, results, strict=True):
        image = read_image(path, upright=True)
        try:
            labels = predict(model, image, short_side=metadata.get("short_side"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        page = with_legend(overlay(image, labels, palette), labels, classes, palette)
        write_picture(overlaid, Image.fromarray(page))
        write_label(target, labels, palette)
        yield path, target


def _refuse_losses(pictures: Sequence[Path], results: Sequence[Sequence[Path]]) -> None:
    """Refuse results that would overwrite one another, or a file that is no earlier result."""
    uses = Counter(path.name.casefold() for pair in results for path in pair)  # some systems take A.png for a.png
    twice = [
        str(picture)
        for picture, pair in zip(pictures, results, strict=True)
        if any(uses[path.name.casefold()] > 1 for path in pair)
    ]
    if twice:
        raise ValueError(
            f"the results of {' and '.join(twice[:2])} would overwrite one another: rename one of {len(twice)} "
            "pictures, or predict them into different folders"
        )
    sources = {path.resolve() for path in pictures}
    for target, overlaid in results:
        for path in (target, overlaid):  # beside an earlier result there is always its overlay
            if path.resolve() in sources or (path.exists() and not overlaid.exists()):
                raise ValueError(
                    f"{path} is there already and is no earlier result: it would be overwritten; give another folder "
                    "(out=..., --out)"
                )


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
