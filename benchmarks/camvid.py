"""Train on CamVid and score the test pictures: `python -m benchmarks.camvid --root FOLDER`.

Settings are those of the preset. The 233 test pictures are scored at the end, by the checkpoint that was best on the
validation pictures. It writes book/results/camvid_cpu.json (or camvid.json with --preset gpu).
"""

import os
import time
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.results import ROOT, write_result
from deeplab_lesson.training import evaluate, load_checkpoint, open_dataset, preset_config, train
from deeplab_lesson.training.checkpoint import STATE


def main(
    root: Path | None = None,
    preset: Literal["cpu", "gpu"] = "cpu",
    out: Path = Path("runs/camvid"),
    results: Path = ROOT / "book" / "results",
) -> None:
    """Train, score, write. `root` defaults to the folder that DEEPLAB_CAMVID names."""
    folder = root or Path(os.environ["DEEPLAB_CAMVID"])
    config = preset_config("camvid", preset, root=folder, out=out, resume=(out / STATE).exists())
    start = time.perf_counter()
    result = train(config)
    seconds = time.perf_counter() - start
    if not result.finished:
        return
    model, _ = load_checkpoint(out)  # the best on the validation pictures, as `deeplab-lesson evaluate` takes it
    scores = evaluate(model, open_dataset("camvid", "test", folder))
    print(f"{config.model}, {seconds / 60:.1f} minutes, CamVid test\n{scores}")
    name = "camvid.json" if preset == "gpu" else "camvid_cpu.json"
    command = f"deeplab-lesson train --data camvid --root CamVid --preset {preset}"
    write_result(
        results / name,
        f"python -m benchmarks.camvid --root CamVid --preset {preset}",
        seconds,
        {"train": command, "seed": config.seed, "steps": config.steps, "model": config.model,
         "validation": result.evaluation.to_json() if result.evaluation else None, "test": scores.to_json()},
    )  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)
