"""From picture files to result files."""

import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deeplab_lesson.data.files import PICTURE_ENDINGS, picture_files, read_image, write_label, write_picture
from deeplab_lesson.inference.colors import class_colors, outline, overlay, with_legend
from deeplab_lesson.inference.objects import check_tells_objects_apart, predict_panoptic
from deeplab_lesson.inference.one_picture import predict_multiscale
from deeplab_lesson.inference.sliding_window import SlidingWindow
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training.answers import ONE_LOOK, check_scales
from deeplab_lesson.training.checkpoint import load_checkpoint
from deeplab_lesson.training.crf_step import CRFChoice, read_crf


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
    checkpoint: str | Path,
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    scales: Sequence[float] = ONE_LOOK,
    flip: bool = False,
    crf: CRFChoice | None = None,
    device: str = "cpu",
) -> Iterator[tuple[Path, Path]]:
    """Label picture files: for each a palette PNG of class ids, name.png, and name_overlay.png with a legend.

    Args:
        scales, flip, crf: as in `predict_multiscale`, but one look and no CRF unless asked for.

    Yields:
        The picture and the label file written for it, one after the other.

    Raises:
        FileNotFoundError: no checkpoint, or an input that names no picture.
        TypeError, ValueError: as in `predict_multiscale`; a file that is no picture, two pictures whose results would
            have one name, or a result that would overwrite a file that no prediction has written.
    """
    model, metadata = load_checkpoint(checkpoint, device=device)
    yield from predict_files_with(model, metadata, inputs, out, scales=scales, flip=flip, crf=crf)


def predict_files_with(
    model: SegmentationModel,
    metadata: dict[str, Any],
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    scales: Sequence[float] = ONE_LOOK,
    flip: bool = False,
    crf: CRFChoice | None = None,
) -> Iterator[tuple[Path, Path]]:
    """Do what `predict_files` does with a model that is loaded already.

    Args:
        model: a `SlidingWindow` labels pictures in the memory of one window, if it takes one look and no CRF.
        metadata: as `load_checkpoint` returns it; a `short_side` in it is handed to `predict_multiscale`.
    """
    scales, parameters = check_scales(scales), None if crf is None else read_crf(crf)
    classes, palette = class_colors(metadata)
    short_side = metadata.get("short_side")
    one_look = scales == ONE_LOOK and not flip and crf is None and short_side is None
    windows = model if one_look and isinstance(model, SlidingWindow) else None
    for path, image, (target, overlaid) in _work(inputs, out, ("", "_overlay")):
        try:
            if windows is not None:
                labels = windows.label(image)
            else:
                labels = predict_multiscale(model, image, scales, flip, crf=parameters, short_side=short_side)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        page = with_legend(overlay(image, labels, palette), labels, classes, palette)
        write_picture(overlaid, Image.fromarray(page))
        write_label(target, labels, palette)
        yield path, target


def predict_panoptic_files(
    model: SegmentationModel,
    metadata: dict[str, Any],
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    things: Iterable[int] | None = None,
) -> Iterator[tuple[Path, Path]]:
    """Label picture files and number their objects.

    For each there is a palette PNG of class ids, name.png; a gray PNG of 16 bits with the number of the object at each
    pixel and 0 where there is none, name_instances.png; and name_overlay.png with the objects outlined, and a legend.

    Args:
        metadata: as `load_checkpoint` returns it.
        things: as in `predict_panoptic`.

    Yields, raises: as `predict_files` and `predict_panoptic`.
    """
    check_tells_objects_apart(model)
    classes, palette = class_colors(metadata)
    chosen = None if things is None else list(things)
    for path, image, (target, numbered, overlaid) in _work(inputs, out, ("", "_instances", "_overlay")):
        try:
            labels, instances = predict_panoptic(model, image, things=chosen)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        outlined = outline(overlay(image, labels, palette), instances)
        write_picture(overlaid, Image.fromarray(with_legend(outlined, labels, classes, palette, instances)))
        write_picture(numbered, Image.fromarray(instances))
        write_label(target, labels, palette)
        yield path, target


def _work(
    inputs: Iterable[str | Path], out: str | Path, endings: Sequence[str]
) -> Iterator[tuple[Path, NDArray[np.uint8], list[Path]]]:
    """Each picture file, what is in it, and the files to write for it; the overlay last."""
    pictures = find_pictures(inputs)
    results = [[Path(out) / f"{path.stem}{ending}.png" for ending in endings] for path in pictures]
    _refuse_losses(pictures, results)
    for path, targets in zip(pictures, results, strict=True):
        yield path, read_image(path, upright=True), targets


def _refuse_losses(pictures: Sequence[Path], results: Sequence[Sequence[Path]]) -> None:
    """Refuse results that would overwrite one another, or a file that is no earlier result."""
    uses = Counter(path.name.casefold() for targets in results for path in targets)  # some systems take A.png for a.png
    twice = [
        str(picture)
        for picture, targets in zip(pictures, results, strict=True)
        if any(uses[path.name.casefold()] > 1 for path in targets)
    ]
    if twice:
        raise ValueError(
            f"the results of {' and '.join(twice[:2])} would overwrite one another: rename one of {len(twice)} "
            "pictures, or predict them into different folders"
        )
    sources = {path.resolve() for path in pictures}
    for targets in results:
        for path in targets:  # beside an earlier result there is always its overlay
            if path.resolve() in sources or (path.exists() and not targets[-1].exists()):
                raise ValueError(
                    f"{path} is there already and is no earlier result: it would be overwritten; give another folder "
                    "(out=..., --out)"
                )
