"""How sliding windows change what an image-pooling model says: `python -m benchmarks.windows`.

The bundled deeplabv3plus_mini (trained on crops of 128) labels scenes of 256x256 as whole pictures and through windows
whose probabilities are averaged. For each it prints the share of pixels whose label differs from the whole picture's,
and the mean IoU against the truth, and writes book/results/windows.json.
"""

import time
import warnings
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks.results import ROOT, write_result
from deeplab_lesson.data import Scenes
from deeplab_lesson.data.bundled import bundled
from deeplab_lesson.inference import SlidingWindow, predict
from deeplab_lesson.metrics import ConfusionMatrix
from deeplab_lesson.training.checkpoint import load_checkpoint

NAME, SIDE = "deeplabv3plus_mini", 256
WINDOWS = ((128, 0), (128, 64), (192, 128), (224, 192))  # side and overlap


def main(pictures: int = 12, results: Path = ROOT / "book" / "results") -> None:
    """Measure, print, write."""
    started = time.perf_counter()
    warnings.simplefilter("ignore", UserWarning)  # what it warns of is measured here
    model, _ = load_checkpoint(bundled(f"weights/{NAME}.safetensors"))
    scenes = [each[:2] for each in map(Scenes("val", (SIDE, SIDE), length=pictures).read, range(pictures))]
    whole = [predict(model, image) for image, _ in scenes]
    rows = []
    print(f"{'window':>8}{'overlap':>9}{'other labels %':>16}{'most in one %':>15}{'mean IoU %':>12}")
    for side, shared in ((SIDE, 0), *WINDOWS):
        windows = SlidingWindow(model, (side, side), (shared, shared))
        matrix, changed = ConfusionMatrix(len(Scenes.classes)), []
        for (image, truth), expected in zip(scenes, whole, strict=True):
            labels = windows.label(image)
            changed.append(float((labels != expected).mean()))
            matrix.update(*(torch.from_numpy(each.astype(np.int64)) for each in (labels, truth)))
        row = {"window": side, "overlap": shared, "changed": float(np.mean(changed)), "changed_most": max(changed)}
        rows.append({**row, "mean_iou": matrix.mean_iou})
        print(
            f"{side:>8}{shared:>9}{100 * row['changed']:>16.2f}{100 * row['changed_most']:>15.2f}"
            f"{100 * matrix.mean_iou:>12.1f}"
        )
    values = {"model": NAME, "size": SIDE, "pictures": pictures, "rows": rows}
    command = f"python -m benchmarks.windows --pictures {pictures}"
    write_result(results / "windows.json", command, time.perf_counter() - started, values)


if __name__ == "__main__":
    tyro.cli(main)
