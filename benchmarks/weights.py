"""Train the small models whose weights the chapters load: `python -m benchmarks.weights [NAME ...]`.

Scenes, fixed seed, the recipe of the CPU preset with more steps and pictures. Stop it at any time and call it again:
it goes on. It writes data/weights/NAME.safetensors and NAME.json.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from benchmarks.results import ROOT, write_result
from benchmarks.resumable import Clock
from deeplab_lesson.data import Scenes
from deeplab_lesson.training import evaluate, load_checkpoint, preset_config, train
from deeplab_lesson.training.checkpoint import STATE

NAMES = (
    "deeplabv3plus_mini",
    "fcn32s_mini",
    "fcn16s_mini",
    "fcn8s_mini",
    "unet_mini",
    "segnet_mini",
    "deeplabv1_mini",
    "deeplabv2_mini",
    "deeplabv3_mini",
)


def main(
    names: Positional[tuple[str, ...]] = NAMES,
    steps: int = 6000,
    limit: int = 4096,
    seed: int = 0,
    runs: Path = Path("runs/weights"),
    out: Annotated[Path, tyro.conf.arg(help="where the weights go")] = ROOT / "data" / "weights",
) -> None:
    """Train, score on the 512 test scenes, write."""
    for name in names:
        run = runs / name
        config = preset_config("scenes", "cpu", model=name, steps=steps, limit=limit, seed=seed, out=run)
        config = replace(
            config, evaluate_every=1000, warmup_steps=100, tensorboard=False, resume=(run / STATE).exists()
        )
        with Clock(run):
            result = train(config)
        if not result.finished:
            print(f"{name}: stopped; the same command goes on")
            return
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / "last.safetensors", out / f"{name}.safetensors")
        model, metadata = load_checkpoint(out / f"{name}.safetensors")
        scores = evaluate(model, Scenes("test"))
        print(f"{name} on the test scenes\n{scores}")
        write_result(
            out / f"{name}.json",
            f"python -m benchmarks.weights {name} --steps {steps} --limit {limit} --seed {seed}",
            Clock(run).seconds,
            {"seed": seed, "steps": steps, "validation": metadata["metrics"], "test": scores.to_json()},
        )


if __name__ == "__main__":
    tyro.cli(main)
