"""deeplab-lesson evaluate."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tqdm import tqdm
from tyro.conf import Positional, arg

from deeplab_lesson.training.config import DataName, open_dataset

if TYPE_CHECKING:
    from deeplab_lesson.data.datasets import SegmentationDataset
    from deeplab_lesson.models.base import SegmentationModel


def evaluate_command(
    checkpoint: Positional[Path],
    data: DataName = "scenes",
    root: Path | None = None,
    split: str = "val",
    scenes_size: tuple[int, int] = (128, 128),
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    crf: str | None = None,
    window: tuple[int, int] | None = None,
    overlap: tuple[int, int] | None = None,
    batch_size: int = 8,
    workers: int = 0,
    device: str = "auto",
    json_file: Annotated[Path | None, arg(name="json")] = None,
) -> None:
    """Score a model: IoU by class, mean IoU, pixel accuracy, mean IoU near boundaries by band width.

    Started by torchrun, every process scores its part of the pictures, and one prints and writes.

    Args:
        checkpoint: a run's folder (its best checkpoint) or a .safetensors file.
        data: the kind of data.
        root: the data's folder (not for scenes).
        split: train, val, test, ...
        scenes_size: height and width of procedural scenes.
        scales: average the probabilities over these sizes of each picture; in the papers 0.5 0.75 1 1.25 1.5 1.75.
        flip: at each scale also average over the picture mirrored left to right.
        crf: then sharpen them with the fully connected CRF, by the .json file of tune-crf or by one of
            deeplab_v1, deeplab_v2_vgg16, deeplab_v2_resnet101, krahenbuhl2011.
        window: height and width of windows through which a larger picture is seen, as in predict.
        overlap: height and width that windows share, as in predict.
        batch_size: pictures of one size that go through the model together.
        workers: processes that read pictures.
        device: cuda, mps, cpu or auto.
        json_file: also write the scores into this file; its name ends in .json.
    """
    from deeplab_lesson.data.files import write_atomically
    from deeplab_lesson.inference import SlidingWindow
    from deeplab_lesson.training.answers import check_scales
    from deeplab_lesson.training.crf_step import plain, read_crf
    from deeplab_lesson.training.distributed import evaluate_together, joined_processes, rank, world_size
    from deeplab_lesson.training.interrupt import StopSwitch

    if json_file is not None:
        check_json_name("--json", json_file)
    check_scales(scales)
    check_windows(window, overlap)
    parameters = None if crf is None else read_crf(crf)
    with joined_processes(device, work="evaluation", advice="Nothing was written: start the same command again"):
        model, metadata, dataset = open_model_and_data(checkpoint, data, root, split, scenes_size, device)
        if window is not None:
            model = SlidingWindow(model, window, overlap)
        speaks, processes = rank() == 0, world_size()
        with tqdm(total=len(dataset), unit="picture", disable=not (speaks and sys.stderr.isatty())) as bar:
            scores = evaluate_together(
                model,
                dataset,
                StopSwitch(),
                scales=scales,
                flip=flip,
                crf=parameters,
                batch_size=batch_size,
                workers=workers,
                progress=lambda done: bar.update(min(done * processes, len(dataset)) - bar.n),
            )
    if not speaks:
        return
    said = f"{looks(scales, flip, crf)}{through(window, overlap)}"
    print(f"{metadata['model']['name']} on {data} {split}{said}\n{scores}")
    if json_file is not None:
        how = {"scales": scales, "flip": flip, "crf": parameters and plain(parameters)}
        how |= {"window": window, "overlap": overlap}
        write_atomically(json_file, (json.dumps({**scores.to_json(), **how}, indent=1) + "\n").encode())


def open_model_and_data(
    checkpoint: Path, data: str, root: Path | None, split: str, scenes_size: tuple[int, int], device: str
) -> "tuple[SegmentationModel, dict[str, Any], SegmentationDataset]":
    """Open a checkpoint and a labeled set of the same classes.

    Raises:
        FileNotFoundError: no checkpoint, no data.
        ValueError: other classes, or the same in another order.
    """
    from deeplab_lesson.inference import class_colors
    from deeplab_lesson.training.checkpoint import load_checkpoint
    from deeplab_lesson.training.distributed import own_device
    from deeplab_lesson.training.hardware import choose_device

    model, metadata = load_checkpoint(checkpoint, device=str(own_device(choose_device(device))))
    dataset = open_dataset(data, split, root, scenes_size=scenes_size)
    classes, _ = class_colors(metadata)
    if list(dataset.classes) != classes:
        raise ValueError(
            f"{checkpoint} was trained on the classes {', '.join(classes)}, and the data has "
            f"{', '.join(dataset.classes)}: evaluate on data with the same classes in the same order"
        )
    return model, metadata, dataset


def check_json_name(option: str, path: Path) -> None:
    """Refuse a name that might be that of a picture or of weights."""
    if path.suffix != ".json" or path.is_dir():
        raise ValueError(f"{option} {path}: allowed is a file name that ends in .json, so that nothing else is lost")


def check_windows(window: tuple[int, int] | None, overlap: tuple[int, int] | None) -> None:
    """Refuse an overlap without windows, and windows that are none."""
    from deeplab_lesson.inference.window_plan import check_window

    if window is not None:
        check_window(window, overlap)
    elif overlap is not None:
        raise ValueError("--overlap is what windows share: give --window HEIGHT WIDTH too")


def through(window: tuple[int, int] | None, overlap: tuple[int, int] | None) -> str:
    """Say through which windows the model saw the pictures; empty for none."""
    if window is None:
        return ""
    shared = "exact" if overlap is None else f"sharing {overlap[0]}x{overlap[1]}"
    return f", windows of {window[0]}x{window[1]} ({shared})"


def looks(scales: tuple[float, ...], flip: bool, crf: str | None) -> str:
    """Say how the model looked at the pictures; empty for one look without a CRF."""
    words = [f"scales {' '.join(f'{scale:g}' for scale in scales)}"] if scales != (1.0,) else []
    words += ["mirrored too"] if flip else []
    words += [f"CRF {crf}"] if crf is not None else []
    return "".join(f", {word}" for word in words)
