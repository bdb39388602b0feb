"""Measurements of several trainings that may be stopped and go on where they were."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from deeplab_lesson.data import SegmentationDataset
from deeplab_lesson.data.files import write_atomically
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training import TrainConfig, TrainResult, train
from deeplab_lesson.training.checkpoint import STATE


class Stopped(Exception):
    """Somebody stopped a training, which has saved itself."""


def train_or_go_on(
    config: TrainConfig,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
    model: SegmentationModel | None = None,
) -> TrainResult:
    """Train to the end, from the start or from where the run in `config.out` was stopped.

    Raises:
        Stopped: it was stopped again.
    """
    config = replace(config, resume=(config.out / STATE).exists())
    result = train(config, train_set=train_set, val_set=val_set, model=model)
    if not result.finished:
        raise Stopped
    return result


class Clock:
    """Adds up the seconds that a measurement takes over all its calls, in a file of `folder`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "seconds.json"

    @property
    def seconds(self) -> float:
        return float(json.loads(self.path.read_text())) if self.path.exists() else 0.0

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        write_atomically(self.path, json.dumps(self.seconds + time.perf_counter() - self.start).encode())


def words(options: dict[str, Any]) -> str:
    """Write options as the command line takes them."""
    texts = {key: " ".join(map(str, value)) if isinstance(value, tuple) else value for key, value in options.items()}
    return " ".join(f"--{key.replace('_', '-')} {text}" for key, text in texts.items())
