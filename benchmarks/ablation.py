"""What each step of the family brings, by itself: `python -m benchmarks.ablation`.

Small models on Scenes, one recipe for all, several seeds (initial weights, order and views). Nothing is chosen by a
score: the last weights count, on the 512 test scenes. Stop it at any time and call it again: it goes on. Several calls
may run beside each other with other `--seeds` or `--rows`; each writes what all of them have finished so far to
book/results/ablation.json (on a CPU: ablation_cpu.json).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import tyro

from benchmarks.results import ROOT, write_result
from benchmarks.resumable import Clock, Stopped, train_or_go_on, words
from deeplab_lesson import create_model
from deeplab_lesson.cost import cost
from deeplab_lesson.data import Scenes
from deeplab_lesson.data.files import write_atomically
from deeplab_lesson.training import TrainConfig, evaluate, preset_config


@dataclass(frozen=True)
class Row:
    """One model of a table: its name, its options, and what differs from the common recipe."""

    model: str = "deeplabv3plus_mini"
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


def v3(**options: Any) -> Row:
    return Row("deeplabv3_mini", {"output_stride": 8, **options})


PARTS: dict[str, dict[str, Row]] = {
    "family": {
        "FCN-32s": Row("fcn32s_mini"),
        "DeepLab v1": Row("deeplabv1_mini"),
        "DeepLab v2": Row("deeplabv2_mini"),
        "DeepLab v3": Row("deeplabv3_mini"),
        "DeepLab v3+": Row(),  # all parts but "context" vary this one
    },
    "context": {  # all but FPN read a map at output stride 8
        "v2, one rate": Row("deeplabv2_mini", {"head": "largefov"}),
        "v2, ASPP-S": Row("deeplabv2_mini", {"head": "aspp_s"}),
        "v3, stride 8": v3(),
        "v3, no image pooling": v3(image_pooling=False),
        "v3, no multi-grid": v3(multi_grid=None),
        "v3, cascade": v3(head="cascade"),
        "PSPNet": Row("pspnet_mini"),
        "FPN": Row("fpn_mini"),
    },
    "decoder": {  # v3+ itself has 16 low-level channels and two 3x3
        "no decoder": Row(options={"decoder": False}),
        "4 low-level channels": Row(options={"low_level_channels": 4}),
        "48 low-level channels": Row(options={"low_level_channels": 48}),
        "one 3x3": Row(options={"decoder_convs": 1}),
        "three 3x3": Row(options={"decoder_convs": 3}),
        "separable": Row(options={"separable": True}),
        "output stride 8": Row(options={"output_stride": 8}),
    },
    "losses": {  # v3+ itself: cross-entropy
        "class weights": Row(recipe={"class_weights": "median_frequency"}),
        "OHEM": Row(recipe={"losses": ("ohem_cross_entropy",)}),
        "focal": Row(recipe={"losses": ("focal",)}),
        "with Dice": Row(recipe={"losses": ("cross_entropy", "dice")}),
        "with Lovász": Row(recipe={"losses": ("cross_entropy", "lovasz_softmax")}),
        "with edges": Row(recipe={"losses": ("cross_entropy", "edge")}),
    },
    "optimization": {  # v3+ itself: SGD, momentum 0.9, poly schedule, batches of 8
        "AdamW": Row(recipe={"optimizer": "adamw", "learning_rate": 0.001}),
        "no momentum": Row(recipe={"momentum": 0.0}),
        "step schedule": Row(recipe={"schedule": "step"}),
        # as many steps, so a quarter of the pictures
        "batches of 2": Row(recipe={"batch_size": 2, "learning_rate": 0.0125}),
    },
}


def main(
    steps: int = 2000,
    limit: int = 4096,
    seeds: tuple[int, ...] = (0, 1, 2),
    rows: tuple[str, ...] = (),
    size: int = 128,
    batch_size: int = 8,
    test_pictures: int = 512,
    runs: Path = Path("runs/ablation"),
    results: Path = ROOT / "book" / "results",
) -> None:
    """Train, score, write.

    Args:
        limit: pictures that are trained on.
        rows: only these models, by what the table calls them; none named means all.
    """
    all_rows = {name: row for part in PARTS.values() for name, row in part.items()}
    if unknown := [name for name in rows if name not in all_rows]:
        raise ValueError(f"there is no row {', '.join(unknown)}: allowed are {', '.join(all_rows)}")
    settings = {"steps": steps, "limit": limit, "size": size, "batch_size": batch_size, "test_pictures": test_pictures}
    preset = preset_config("scenes", "cpu", steps=steps, limit=limit, crop=(size, size), tensorboard=False)
    config = replace(
        preset,
        batch_size=batch_size,
        learning_rate=preset.learning_rate * batch_size / preset.batch_size,  # the linear rule
        evaluate_every=steps,
        step_every=max(1, steps // 3),  # two falls, as v1 has in its 6000 steps
        warmup_steps=min(100, steps // 10),
    )
    for seed in seeds:
        for name in rows or all_rows:
            row = all_rows[name]
            seeded = replace(config, **{"model": row.model, "seed": seed, **row.recipe})
            seeded = replace(seeded, out=folder(runs, settings, name, seed))
            try:
                scores = scored(seeded, row.options, size, test_pictures)
            except Stopped:
                print(f"stopped at {name}, seed {seed}; the same command goes on")
                return
            print(f"{name}, seed {seed}: {100 * scores['mean_iou']:.1f} %", flush=True)
            write(settings, runs, results)


def folder(runs: Path, settings: dict[str, int], name: str, seed: int) -> Path:
    """Where one training lives: another number of steps is another training."""
    return runs / "_".join(f"{key}{value}" for key, value in settings.items()) / name / str(seed)


def scored(config: TrainConfig, options: Mapping[str, Any], size: int, test_pictures: int) -> dict[str, Any]:
    """Train one model, or go on with it, and score it once."""
    path = config.out / "scores.json"
    if not path.exists():
        with Clock(config.out):
            train_set, val_set = Scenes("train", (size, size)), Scenes("val", (size, size), length=test_pictures // 8)
            torch.manual_seed(config.seed)
            model = create_model(config.model, num_classes=len(Scenes.classes), **options)
            trained = train_or_go_on(config, train_set, val_set, model).model
            scores = evaluate(trained, Scenes("test", (size, size), length=test_pictures)).to_json()
        write_atomically(path, json.dumps(scores).encode())
    scores = json.loads(path.read_text(encoding="utf-8"))
    return dict(scores)


def write(settings: dict[str, int], runs: Path, results: Path) -> None:
    """Write down everything that has been finished with these settings, by whichever call."""
    values: dict[str, Any] = {**settings, "models": []}
    seconds = 0.0
    for part, rows in PARTS.items():
        values[part] = {}
        for name, row in rows.items():
            done = {
                int(path.parent.name): path for path in folder(runs, settings, name, 0).parent.glob("*/scores.json")
            }
            if not done:
                continue
            seconds += sum(Clock(path.parent).seconds for path in done.values())
            scores = [json.loads(done[seed].read_text(encoding="utf-8")) for seed in sorted(done)]
            values[part][name] = scores
            counted = cost(
                create_model(row.model, num_classes=len(Scenes.classes), **row.options), (settings["size"],) * 2
            )
            values["models"].append(
                {
                    "row": name,
                    "model": row.model,
                    "differs": words({**row.options, **row.recipe}),
                    "seeds": sorted(done),
                    "test_mean_iou": mean(score["mean_iou"] for score in scores),
                    "parameters": counted.parameters,
                    "multiply_adds": counted.multiply_adds,
                }
            )
    name = "ablation.json" if torch.cuda.is_available() else "ablation_cpu.json"
    write_result(results / name, f"python -m benchmarks.ablation {words(settings)}", seconds, values)


if __name__ == "__main__":
    tyro.cli(main)
