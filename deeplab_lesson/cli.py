"""The command line: deeplab-lesson train | evaluate | predict | models | receptive-field | scenes."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from tqdm import tqdm
from tyro.conf import Positional, arg

from deeplab_lesson.data.datasets import SegmentationDataset
from deeplab_lesson.training.config import DataName, TrainConfig, open_dataset, preset_config


def train_command(arguments: Sequence[str]) -> None:
    """Train a model. --preset cpu|gpu fills in recommended settings, which other options then change."""
    first = argparse.ArgumentParser(prog="deeplab-lesson train", add_help=False, allow_abbrev=False)
    first.add_argument("--data", default="scenes")
    first.add_argument("--preset")
    known, _ = first.parse_known_args(arguments)
    defaults = preset_config(known.data, known.preset) if known.preset else TrainConfig()
    config = tyro.cli(
        TrainConfig,
        prog="deeplab-lesson train",
        description=f"{train_command.__doc__}\n\nGo on with a stopped training: the same options and --resume.",
        default=defaults,
        args=arguments,
    )
    from deeplab_lesson.training.trainer import train

    result = train(config)
    if result.evaluation is not None:
        print(f"\nOn {config.data} {config.val_split}, after the last step:\n{result.evaluation}")
    if not result.finished:
        print("Go on: the same command with --resume")
        raise SystemExit(130)
    print(f"Saved in {result.out}: best.safetensors, last.safetensors, metrics.jsonl")


def evaluate_command(
    checkpoint: Positional[Path],
    data: DataName = "scenes",
    root: Path | None = None,
    split: str = "val",
    scenes_size: tuple[int, int] = (128, 128),
    batch_size: int = 8,
    workers: int = 0,
    device: str = "auto",
    json_file: Annotated[Path | None, arg(name="json")] = None,
) -> None:
    """Score a model: IoU by class, mean IoU, pixel accuracy, mean IoU near boundaries by band width.

    Args:
        checkpoint: a run's folder (its best checkpoint) or a .safetensors file.
        data: the kind of data.
        root: the data's folder (not for scenes).
        split: train, val, test, ...
        scenes_size: height and width of procedural scenes.
        batch_size: pictures of one size that go through the model together.
        workers: processes that read pictures.
        device: cuda, mps, cpu or auto.
        json_file: also write the scores into this file; its name ends in .json.
    """
    from deeplab_lesson.data.files import write_atomically
    from deeplab_lesson.inference import class_colors
    from deeplab_lesson.training.checkpoint import load_checkpoint
    from deeplab_lesson.training.evaluation import evaluate
    from deeplab_lesson.training.hardware import choose_device

    if json_file is not None and (json_file.suffix != ".json" or json_file.is_dir()):
        raise ValueError(f"--json {json_file}: allowed is a file name that ends in .json, so that nothing else is lost")
    model, metadata = load_checkpoint(checkpoint, device=str(choose_device(device)))
    dataset = open_dataset(data, split, root, scenes_size=scenes_size)
    classes, _ = class_colors(metadata)
    if list(dataset.classes) != classes:
        raise ValueError(
            f"{checkpoint} was trained on the classes {', '.join(classes)}, and the data has "
            f"{', '.join(dataset.classes)}: evaluate on data with the same classes in the same order"
        )
    with tqdm(total=len(dataset), unit="picture", disable=not sys.stderr.isatty()) as bar:
        scores = evaluate(
            model,
            dataset,
            batch_size=batch_size,
            workers=workers,
            progress=lambda done: _advance(bar, done),
        )
    print(f"{metadata['model']['name']} on {data} {split}\n{scores}")
    if json_file is not None:
        write_atomically(json_file, (json.dumps(scores.to_json(), indent=1) + "\n").encode())


def predict_command(
    checkpoint: Positional[Path],
    inputs: Positional[tuple[str, ...]],
    out: Path = Path("predictions"),
    weights: Literal["torchvision"] | None = None,
    device: str = "auto",
) -> None:
    """Label pictures: palette PNGs of class ids, and overlays with a legend.

    Args:
        checkpoint: a run's folder (its best checkpoint) or a .safetensors file; with --weights left out.
        inputs: picture files, folders or globs.
        out: the folder for the results.
        weights: torchvision takes its published DeepLab v3 (ResNet-50, VOC's 21 classes) instead of a checkpoint.
        device: cuda, mps, cpu or auto.
    """
    from deeplab_lesson.inference import predict_files, predict_files_with
    from deeplab_lesson.interop import published_model
    from deeplab_lesson.training.hardware import choose_device

    where = str(choose_device(device))
    if weights is not None:  # then there is no checkpoint, and the first word is a picture
        pairs = predict_files_with(*published_model(device=where), (str(checkpoint), *inputs), out)
    elif inputs:
        pairs = predict_files(checkpoint, inputs, out, device=where)
    else:
        raise ValueError("no picture is named: give files, folders or globs after the checkpoint")
    for picture, target in pairs:
        print(f"{picture} -> {target}")


def models_command(pattern: Positional[str] = "*", cost: bool = False, size: tuple[int, int] = (513, 513)) -> None:
    """List the models with their parameter counts at 21 classes.

    Args:
        pattern: a shell pattern such as 'deeplabv3plus_*'.
        cost: also multiply-adds and activation memory, and the papers' own counts.
        size: height and width of the image that --cost is for.
    """
    from deeplab_lesson.models.cost_table import cost_table, papers_table, parameter_table
    from deeplab_lesson.models.registry import list_models

    names = list_models(pattern)
    if not names:
        raise ValueError(f"no model matches {pattern!r}: there are {', '.join(list_models())}")
    print(f"{cost_table(names, size)}\n\n{papers_table()}" if cost else parameter_table(names))


def receptive_field_command(
    model: Positional[str], output_stride: int | None = None, size: tuple[int, int] = (256, 256)
) -> None:
    """Print the receptive field of a model, layer by layer.

    Args:
        model: one of those that 'deeplab-lesson models' lists.
        output_stride: 8, 16 or 32; the model's own unless given.
        size: height and width of the image, for the sizes of the maps.
    """
    from deeplab_lesson.models.registry import create_model
    from deeplab_lesson.receptive_field import layer_table

    with torch.device("meta"):
        network = create_model(model, output_stride=output_stride)
    print(layer_table(network, size))


def scenes_command(
    action: Positional[Literal["export"]],
    folder: Positional[Path],
    split: tuple[Literal["train", "val", "test"], ...] = ("train", "val"),
    count: tuple[int, ...] = (16, 8),
    size: tuple[int, int] = (128, 128),
    seed: int = 0,
) -> None:
    """Draw procedural scenes and write them in VOC's layout.

    Args:
        action: export.
        folder: where to write; must not hold pictures yet.
        split: the splits to write.
        count: pictures in each split.
        size: height and width in pixels.
        seed: another seed gives other scenes.
    """
    from deeplab_lesson.data.export import export_voc
    from deeplab_lesson.data.scenes import Scenes

    if len(split) != len(count) or len(set(split)) != len(split) or not split:
        raise ValueError(
            f"--split {' '.join(split)} has {len(split)} names and --count {len(count)} numbers: give each split once, "
            "and one count for each"
        )
    sets: dict[str, SegmentationDataset] = {
        name: Scenes(name, size, length=n, seed=seed) for name, n in zip(split, count, strict=True)
    }
    print(f"{export_voc(folder, sets)} pictures written in {folder}")


COMMANDS: dict[str, Callable[..., None]] = {
    "evaluate": evaluate_command,
    "predict": predict_command,
    "models": models_command,
    "receptive-field": receptive_field_command,
    "scenes": scenes_command,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it worked, 2 when the input was wrong, 130 when it was stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    code = 0
    try:
        if words[:1] == ["train"]:
            train_command(words[1:])
        elif words and words[0] in COMMANDS:
            tyro.cli(COMMANDS[words[0]], prog=f"deeplab-lesson {words[0]}", args=words[1:])
        else:
            code = 2 if words and words[0] not in ("-h", "--help") else 0
            print(_usage(), file=sys.stderr if code else sys.stdout)
        sys.stdout.flush()  # a reader that has gone is noticed here, not while Python ends
    except KeyboardInterrupt:
        print("deeplab-lesson: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has gone: nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        print(f"deeplab-lesson: {_one_line(error)}", file=sys.stderr)
        return 2
    return code


def _one_line(error: BaseException) -> str:
    """What went wrong, without the trace that a DataLoader puts before the message of its worker."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return f"out of memory ({error}): take smaller batches, crops or pictures, or another device".replace("\n", " ")
    if isinstance(error, (FileExistsError, NotADirectoryError)) and error.filename:
        return f"{error.filename}: a file stands where a folder is needed; choose another name"
    text = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else str(error)
    if "Original Traceback" in text:
        text = text.rstrip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def _usage() -> str:
    rows = {"train": train_command, **COMMANDS}
    lines = [f"  {name:<17}{(function.__doc__ or '').splitlines()[0]}" for name, function in rows.items()]
    return "\n".join(["usage: deeplab-lesson COMMAND ... (COMMAND --help says more)", *lines])


def _advance(bar: "tqdm[None]", done: int) -> None:
    bar.update(done - bar.n)
