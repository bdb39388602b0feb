"""What a run writes down about itself: for users of its weights, and for going on with it."""

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deeplab_lesson import __version__
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
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return what the numbers of a run depend on beside its settings."""
    return {
        "deeplab_lesson": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
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


STATE_PARTS = ("step", "scored_step", "best_mean_iou", "evaluation", "model", "optimizer", "scaler", "random_state")


def check_state(state: dict[str, Any], settings: dict[str, str], out: Path) -> str | None:
    """Refuse a saved training that this one, with `settings`, cannot go on with.

    Returns:
        A remark, where it can but another version of PyTorch saved it.

    Raises:
        ValueError: other settings, settings that this version does not know, or a state of another form.
    """
    then, now = state.get("versions", {}), versions()
    writer = f"deeplab_lesson {then.get('deeplab_lesson', '(not noted)')}"
    start_anew = "start a new one in another folder (out=..., --out), from its weights if you like (start_from=...)"
    missing = [part for part in STATE_PARTS if part not in state]
    unknown = sorted(state["settings"].keys() - settings.keys() - set(FREE_SETTINGS))
    if missing or unknown:
        found = (
            f"lacks {', '.join(missing)}"
            if missing
            else "has settings that this version does not know: "
            + ", ".join(f"{key}={state['settings'][key]}" for key in unknown)
        )
        raise ValueError(
            f"the training in {out} was saved by {writer} and {found}; this is {now['deeplab_lesson']}. Go on with the "
            f"version that saved it, or {start_anew}"
        )
    different = setting_differences({"processes": "1"} | state["settings"], settings)
    if different:
        raise ValueError(
            f"the training in {out} has other settings: {'; '.join(different)}. Go on with the same settings, or "
            f"{start_anew}"
        )
    if then and then["torch"] != now["torch"]:
        return (
            f"saved with PyTorch {then['torch']}, and this is {now['torch']}: it goes on, but its numbers may differ "
            "in their last digits from those of a run without a stop"
        )
    return None


def setting_differences(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """Say which settings differ between a saved training and this one.

    A training saved before a setting existed ran with what is now that setting's default.
    """
    defaults = {field.name: str(field.default) for field in dataclasses.fields(TrainConfig)}
    known = defaults | then
    return [f"{key} was {known.get(key)} and is {now[key]}" for key in now if known.get(key) != now[key]]
