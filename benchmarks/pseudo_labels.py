"""What pseudo labels bring where few labels are: `python -m benchmarks.pseudo_labels`.

Scenes, of which 5 % keep their labels. Measured on the 512 test scenes, for each seed, after equally many steps:

    supervised        the labeled pictures alone; it is the teacher
    student 1, 2...   these and the pictures with pseudo labels, by rounds
    supervised long   the labeled pictures alone, for as many steps as teacher and students took together
    all labels        every picture with its true label: what pseudo labels could reach at best

The seed chooses the initial weights, the order and the views; the pictures are the same, the first ones of `pictures`
being the labeled ones. Nothing is chosen by a score: the last weights count. Stop it at any time and call it again: it
goes on. It writes book/results/pseudo_labels.json.
"""

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import tyro

from benchmarks.results import ROOT, write_result
from benchmarks.resumable import Clock, Stopped, train_or_go_on, words
from deeplab_lesson.data import VOID, Scenes, SegmentationDataset
from deeplab_lesson.metrics import ConfusionMatrix
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training import evaluate, preset_config
from deeplab_lesson.training.checkpoint import STATE
from deeplab_lesson.training.pseudo_labels import PseudoLabels, class_thresholds
from deeplab_lesson.training.self_training import self_train


class Part(SegmentationDataset):
    """Some pictures of a set, those from `first` up to, not including, `last`."""

    def __init__(self, dataset: SegmentationDataset, first: int, last: int) -> None:
        self.dataset, self.range = dataset, range(first, last)
        self.classes, self.palette = dataset.classes, dataset.palette

    def __len__(self) -> int:
        return len(self.range)

    def name(self, index: int) -> str:
        return self.dataset.name(self.range[index])

    def read(self, index: int) -> tuple[Any, ...]:
        return self.dataset.read(self.range[index])


def main(
    pictures: int = 1024,
    labeled_percent: float = 5.0,
    steps: int = 1400,
    rounds: int = 1,
    share: float = 0.5,
    labeled_share: float = 0.25,
    seeds: tuple[int, ...] = (0, 1),
    model: str = "deeplabv3plus_mini",
    batch_size: int = 8,
    learning_rate: float = 0.05,
    size: int = 128,
    val_pictures: int = 64,
    test_pictures: int = 512,
    runs: Path = Path("runs/pseudo_labels"),
    results: Path = ROOT / "book" / "results",
) -> None:
    """Train, score, compare, write.

    Args:
        share: of each class's pixels, the surest, that get a pseudo label.
        labeled_share: of the student's pictures.
        val_pictures: those that are scored during training; no choice depends on them.
    """
    options = {key: value for key, value in locals().items() if key not in ("runs", "results")}
    count = max(1, round(pictures * labeled_percent / 100))
    whole = Scenes("train", (size, size), length=pictures)
    labeled, unlabeled = Part(whole, 0, count), Part(whole, count, pictures)
    val_set = Scenes("val", (size, size), length=val_pictures)
    test_set = Scenes("test", (size, size), length=test_pictures)
    config = preset_config("scenes", "cpu", model=model, steps=steps, crop=(size, size), limit=None, tensorboard=False)
    config = replace(
        config,
        batch_size=batch_size,
        learning_rate=learning_rate,
        evaluate_every=steps,
        warmup_steps=min(config.warmup_steps, steps // 10),
    )
    how = {"rounds": rounds, "share": share, "labeled_share": labeled_share}
    scores: dict[str, list[dict[str, Any]]] = {}
    labels: list[list[dict[str, Any]]] = []
    for seed in seeds:
        seeded = replace(config, seed=seed, out=runs / str(seed))
        try:
            with Clock(seeded.out):
                resume = (seeded.out / "round_0" / STATE).exists()
                trained = self_train(replace(seeded, resume=resume), labeled, unlabeled, val_set=val_set, **how)
                if not trained[-1].finished:
                    raise Stopped
                models = {"supervised": trained[0].model}
                models |= {f"student {number}": result.model for number, result in enumerate(trained[1:], 1)}
                longer = replace(seeded, steps=steps * (rounds + 1), out=seeded.out / "supervised_long")
                models["supervised long"] = train_or_go_on(longer, labeled, val_set).model
                best = replace(seeded, out=seeded.out / "all_labels")
                models["all labels"] = train_or_go_on(best, whole, val_set).model
        except Stopped:
            print(f"stopped at seed {seed}; the same command goes on")
            return
        for name, network in models.items():
            scores.setdefault(name, []).append(evaluate(network, test_set).to_json())
        labels.append([quality(result.model, unlabeled, share) for result in trained[:-1]])
        print(table(scores, labels), flush=True)
    write_result(
        results / "pseudo_labels.json",
        f"python -m benchmarks.pseudo_labels {words(options)}",
        sum(Clock(runs / str(seed)).seconds for seed in seeds),
        {
            **options,
            "labeled": count,
            "unlabeled": pictures - count,
            "test_mean_iou": {name: [score["mean_iou"] for score in row] for name, row in scores.items()},
            "pseudo_labels": labels,
            "test": scores,
        },
    )


@torch.inference_mode()
def quality(teacher: SegmentationModel, unlabeled: SegmentationDataset, share: float) -> dict[str, Any]:
    """Compare pseudo labels with the true ones, which no training has seen: the share kept, and how many are right."""
    pseudo = PseudoLabels(unlabeled, teacher, class_thresholds(unlabeled, teacher, share))
    answers = PseudoLabels(unlabeled, teacher, 0.0)
    kept, everything = (ConfusionMatrix(len(unlabeled.classes)) for _ in range(2))
    for index in range(len(unlabeled)):
        truth, label, answer = (torch.from_numpy(data.read(index)[1].copy()) for data in (unlabeled, pseudo, answers))
        everything.update(answer, truth)
        kept.update(answer, truth, where=label != VOID)
    return {
        "kept": pseudo.kept,
        "right_of_kept": kept.pixel_accuracy,
        "right_of_all": everything.pixel_accuracy,
        "thresholds": pseudo.thresholds.tolist(),
    }


def table(scores: dict[str, list[dict[str, Any]]], labels: list[list[dict[str, Any]]]) -> str:
    """Write the comparison out: a row for each way of training, a column for each seed."""
    base = [score["mean_iou"] for score in scores["supervised"]]
    lines = [f"{'test mean IoU %':<18}{'by seed':<{8 * len(base)}}{'mean':>8}  against supervised"]
    for name, row in scores.items():
        values = [score["mean_iou"] for score in row]
        gains = [100 * (value - supervised) for value, supervised in zip(values, base, strict=True)]
        cells = "".join(f"{100 * value:<8.2f}" for value in values)
        lines.append(
            f"{name:<18}{cells}{100 * mean(values):>8.2f}  {mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f})"
        )
    for number in range(len(labels[0])):
        kept, right, of_all = (
            100 * mean(row[number][key] for row in labels) for key in ("kept", "right_of_kept", "right_of_all")
        )
        lines.append(
            f"labels of student {number + 1}: {kept:.1f} % of the pixels are labeled, {right:.1f} % of these rightly; "
            f"of all pixels the teacher labels {of_all:.1f} % rightly"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
