"""A training of seconds, run as a process that tests may stop or kill: `python short_training.py OUT [resume]`."""

import sys
import time
from pathlib import Path
from typing import Any

import torch

from deeplab_lesson.data import Scenes
from deeplab_lesson.training import TrainConfig, Trainer, TrainResult, train

STEPS = 24


def short_config(out: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "out": out, "steps": STEPS, "batch_size": 3, "crop": (48, 48), "evaluate_every": 8, "save_every": 3,
        "log_every": 2, "tensorboard": False, "device": "cpu",
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def short_sets() -> dict[str, Scenes]:
    return {"train_set": Scenes("train", (64, 64), length=10), "val_set": Scenes("val", (64, 64), length=3)}


def short_training(out: Path, **changes: Any) -> TrainResult:
    return train(short_config(out, **changes), **short_sets())


class SlowTrainer(Trainer):
    """Waits a little at every step, so that there is time to be killed in."""

    def _update(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return super()._update(images, labels)


if __name__ == "__main__":
    torch.set_num_threads(1)
    config = short_config(Path(sys.argv[1]), resume="resume" in sys.argv[2:])
    result = SlowTrainer(config, **short_sets()).run()
    print("finished" if result.finished else "not finished")
