"""What the fully connected CRF brings to trained small models on Scenes: `python -m benchmarks.crf_scenes`.

For each model the CRF's parameters are searched on validation scenes, as v1 and v2 did; then the 512 test scenes are
scored three times: the network alone, with v1's parameters (found on photographs), and with those that were searched.
Stop it at any time and call it again: models that are done are not measured again. It prints a table and writes
book/results/crf_scenes.json.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.results import ROOT, write_result
from benchmarks.resumable import words
from deeplab_lesson.crf import PRESETS
from deeplab_lesson.data import Scenes
from deeplab_lesson.data.bundled import bundled
from deeplab_lesson.data.files import write_atomically
from deeplab_lesson.inference.crf_search import tune_crf
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training import evaluate, load_checkpoint

MODELS = ("fcn32s_mini", "deeplabv1_mini", "deeplabv3plus_mini")
GRID = {
    "appearance_weight": (2.5, 5.0, 10.0, 20.0),
    "smoothness_weight": (0.0, 1.0),
    "appearance_sigma_xy": (10.0, 20.0, 50.0),
    "appearance_sigma_rgb": (3.0, 6.0, 12.0),
}
SMOOTHNESS_SIGMA_XY = 1.0


def main(
    models: tuple[str, ...] = MODELS,
    search_pictures: int = 24,
    test_pictures: int = 512,
    runs: Path = Path("runs/crf_scenes"),
    results: Path = ROOT / "book" / "results",
) -> None:
    """Search, score, compare, write.

    Args:
        models: names of bundled weights.
        search_pictures: validation scenes on which the CRF's parameters are searched.
    """
    torch.set_num_threads(1)
    measured = {}
    for name in models:
        file = runs / f"{name}_{search_pictures}_{test_pictures}.json"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            network, _ = load_checkpoint(bundled(f"weights/{name}.safetensors"))
            record = measure(network, search_pictures, test_pictures)
            write_atomically(file, json.dumps(record).encode())
        measured[name] = json.loads(file.read_text(encoding="utf-8"))
        print(table({name: measured[name]}), flush=True)
    options = {"models": models, "search_pictures": search_pictures, "test_pictures": test_pictures}
    write_result(
        results / "crf_scenes.json",
        f"python -m benchmarks.crf_scenes {words(options)}",
        sum(record["seconds"] for record in measured.values()),
        {
            "search_pictures": search_pictures,
            "grid": {key: list(values) for key, values in GRID.items()},
            "searched": [{"model": name, **record["searched"]} for name, record in measured.items()],
            "test": {
                f"{name}{ending}": record["test"][kind]
                for name, record in measured.items()
                for kind, ending in (("alone", ""), ("preset", " and v1's CRF"), ("searched", " and its CRF"))
            },
        },
    )


def measure(network: SegmentationModel, search_pictures: int, test_pictures: int) -> dict[str, Any]:
    """Search the CRF for one network on validation scenes, and score it on test scenes."""
    started = time.perf_counter()
    fixed = {"smoothness_sigma_xy": SMOOTHNESS_SIGMA_XY, "iterations": 10}
    found = tune_crf(
        network, Scenes("val", length=search_pictures), count=search_pictures, grid=GRID, rounds=1, **fixed
    )
    test_set = Scenes("test", length=test_pictures)
    choices = {"alone": None, "preset": PRESETS["deeplab_v1"], "searched": found.parameters}
    scores = {kind: evaluate(network, test_set, crf=choice).to_json() for kind, choice in choices.items()}
    searched = {
        **found.parameters,
        "validation_mean_iou": round(found.mean_iou, 4),
        "validation_mean_iou_alone": round(found.mean_iou_before, 4),
    }
    return {"seconds": time.perf_counter() - started, "searched": searched, "test": scores}


def table(measured: dict[str, dict[str, Any]]) -> str:
    """Write the scores of models out: mean IoU, near boundaries by the width of the band, and of wires."""
    lines = []
    for name, record in measured.items():
        bands = list(record["test"]["alone"]["trimap_mean_iou"])
        head = "".join(f"{f'{width} px':>8}" for width in bands)
        lines.append(f"{name:<20}{'mIoU':>8}{head}{'wire':>8}")
        for kind, scores in record["test"].items():
            values = [scores["mean_iou"], *scores["trimap_mean_iou"].values(), scores["iou"]["wire"]]
            texts = ["-" if value is None else f"{100 * value:.1f}" for value in values]
            lines.append(f"  {kind:<18}" + "".join(f"{text:>8}" for text in texts))
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
