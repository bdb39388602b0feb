"""Chapter 9 works examples by hand and quotes papers: its tables are the package's numbers and the papers'."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from chapter_cells import means, printed, source, table_rows

from deeplab_lesson import losses
from deeplab_lesson.data import VOID

ROOT = Path(__file__).resolve().parents[1]


def cell(name: str) -> str:
    return source("09_losses", name)


def rows(name: str) -> list[list[str]]:
    """The rows of the tables in one cell, without lines and headings."""
    return table_rows("09_losses", name)[1:]


def test_scores_that_the_chapter_begins_with_are_those_of_the_bundled_weights() -> None:
    test = json.loads((ROOT / "data/weights/deeplabv3plus_mini.json").read_text(encoding="utf-8"))["test"]
    text = cell("title")
    assert f"scores {100 * test['mean_iou']:.1f} % mean IoU" in text
    assert f"scores {100 * test['iou']['crescent']:.1f} %" in text


def test_what_the_tables_of_short_trainings_are_said_to_show_stands_in_them() -> None:
    mean, wire, seed, crescent = (means(rows("ablation-table"), column) for column in (0, 2, 3, 4))
    ours = "DeepLab v3+"
    for name in ("with Dice", "with Lovász"):
        assert mean[name] - mean[ours] > 7  # "gets much further"
        assert wire[name] > wire[ours]  # "wires do not pay"
        assert seed[name] > 30  # "on seeds above all"
    assert round(mean["OHEM"] - mean[ours]) == 7  # "brings seven points"
    assert abs(mean["focal"] - mean[ours]) < 0.5  # "changes nothing"
    assert mean["with edges"] < mean[ours]  # "bring nothing"
    assert seed["class weights"] > 10 + seed[ours]
    assert wire["class weights"] < wire[ours] - 5  # "lift seeds, and wires pay"
    assert max(crescent.values()) < 2  # "hardly found by any"
    other = means(rows("ablation-optimization"), 0)
    assert max(other, key=lambda name: other[name]) == "AdamW"  # "leads"


def test_four_pixels_by_hand_cost_what_the_package_says() -> None:
    logits, labels = [], []
    for _, label, probabilities, loss in rows("by-hand"):
        p = [float(value) for value in probabilities.split(",")]
        assert sum(p) == pytest.approx(1)
        logits.append(torch.tensor(p).log())
        labels.append(VOID if label == "void" else int(label))
        if label != "void":
            assert loss.endswith(f"= {-math.log(p[int(label)]):.3f}")
    mean = losses.cross_entropy(torch.stack(logits).T[None, :, None], torch.tensor(labels)[None, None])
    assert f"= **{mean:.3f}**" in cell("by-hand")


def test_lovasz_by_hand_is_the_packages() -> None:
    p, truth = torch.tensor([0.4, 0.8, 0.5]), torch.tensor([[[1, 1, 0]]])
    logits = torch.stack([1 - p, p]).log()[None, :, None]
    value = losses.lovasz_softmax(logits, truth, class_weights=torch.tensor([0.0, 1.0])).item()
    table = rows("overlap")
    gains = [int(gain.split("/")[0]) / int(gain.split("/")[1]) for *_, gain in table]
    total = sum(float(error) * gain for (_, error, *_), gain in zip(table, gains, strict=True))
    assert total == pytest.approx(value, abs=1e-6)
    assert f"= **{value:.2f}**" in cell("overlap")


def test_dice_by_hand_is_the_packages() -> None:
    p, truth = torch.tensor([0.9, 0.4, 0.3, 1e-9]), torch.tensor([[[1, 1, 0, 0]]])
    logits = torch.stack([1 - p, p]).log()[None, :, None]
    value = 1 - losses.dice_loss(logits, truth, class_weights=torch.tensor([0.0, 1.0])).item()
    assert f"= 2.6 / 3.6 = {value:.3f}" in cell("overlap")


def test_lovasz_of_one_half_is_below_that_of_the_best_yes_and_no() -> None:
    hard, half = re.findall(r"^Lovász.*: ([\d.]+)$", printed("09_losses", "toy-check"), re.MULTILINE)
    best = float(re.findall(r"best Dice: D = ([\d.]+)", printed("09_losses", "toy-check"))[0])
    iou = best / (2 - best)
    assert f"is {iou:.2f}, so yes or no costs {hard} at best, and one half everywhere costs {half}" in cell("toy-read")
    assert float(hard) == pytest.approx(1 - iou, abs=0.006)


def test_table_of_the_schedules_is_v2s_table_2() -> None:
    table = rows("schedule-read")
    assert [row[-1] for row in table] == ["62.25", "63.42", "64.90", "64.71", "65.88"]
    for schedule, batch, steps, pictures, _ in table:
        assert schedule in ("step", "poly")
        assert int(batch) * int(steps.replace(",", "")) == int(pictures.replace(",", ""))


def test_table_of_the_batches_is_v3s() -> None:
    (header,) = (line for line in cell("norm-pool-read").splitlines() if line.startswith("| batch"))
    assert [part.strip() for part in header.strip("|").split("|")[1:5]] == ["4", "8", "12", "16"]
    assert rows("norm-pool-read")[0][1:] == ["64.43", "75.76", "76.49", "77.21", "75.95"]


def test_thirteen_points_are_the_difference_of_the_papers_batches() -> None:
    assert round(77.21 - 64.43) == 13
    assert re.search(r"costs 13 points", cell("norm-pool-read"))
