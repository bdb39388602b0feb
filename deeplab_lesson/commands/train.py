"""deeplab-lesson train."""

import argparse
from collections.abc import Sequence

import tyro

from deeplab_lesson.training.config import TrainConfig, preset_config


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
    from deeplab_lesson.training.distributed import joined_processes, rank
    from deeplab_lesson.training.trainer import train

    with joined_processes(config.device):
        result = train(config)
        speaks = rank() == 0
    if speaks and result.evaluation is not None:
        print(f"\nOn {config.data} {config.val_split}, after the last step:\n{result.evaluation}")
    if speaks and not result.finished:
        print("Go on: the same command with --resume")
    if not result.finished:
        raise SystemExit(130)
    if speaks:
        print(f"Saved in {result.out}: best.safetensors, last.safetensors, metrics.jsonl")
