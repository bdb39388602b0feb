"""What a run writes down about itself: for users of its weights, and for going on with it."""

import dataclasses
import json
import platform
from typing import Any

import numpy as np
import torch

from deeplab_lesson.data.datasets import SegmentationDataset
from deeplab_lesson.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training.config import TrainConfig
from deeplab_lesson.training.evaluation import Evaluation

# settings that may differ when a training goes on, because they do not change what it computes
FREE_SETTINGS = (
    "root", "download", "out", "resume", "workers", "cache", "uint8_upload", "log_every", "save_every", "tensorboard",
)  # fmt: skip


def description(
    config: TrainConfig, dataset: SegmentationDataset, step: int, evaluation: Evaluation | None
) -> dict[str, Any]:
    """Return what a user of the weights needs to know, as JSON values."""
    settings = {key: value for key, value in dataclasses.asdict(config).items() if value is not None}
    plain = (int, float, bool, list, tuple)
    return {
        "step": step,
        "classes": list(dataset.classes),
        "palette": dataset.palette[: len(dataset.classes)].tolist(),
        "normalization": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        "metrics": evaluation.to_json() if evaluation else None,
        "config": {key: value if isinstance(value, plain) else str(value) for key, value in settings.items()},
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__},
    }


def resume_settings(
    config: TrainConfig,
    model: SegmentationModel,
    dataset: SegmentationDataset,
    device: torch.device,
    precision: torch.dtype,
) -> dict[str, str]:
    """Return what must be the same for a training to go on, as text."""
    settings = {key: str(value) for key, value in dataclasses.asdict(config).items() if key not in FREE_SETTINGS}
    return settings | {
        "model": json.dumps(model.spec),
        "classes": ", ".join(dataset.classes),
        "pictures": str(len(dataset)),
        "device": device.type,
        "precision": str(precision),
    }


def setting_differences(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """Say which settings differ between a saved training and this one.

    A training saved before a setting existed ran with what is now that setting's default.
    """
    defaults = {field.name: str(field.default) for field in dataclasses.fields(TrainConfig)}
    known = defaults | then
    return [f"{key} was {known.get(key)} and is {now[key]}" for key in now if known.get(key) != now[key]]
