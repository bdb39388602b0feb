"""Chapter 6 quotes measurements that a reader's machine does not repeat: its tables are the files' numbers."""

import json
import re
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from chapter_cells import source, table_rows

from benchmarks.crf_scenes import table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "book" / "results"
MODELS = {"FCN-32s": "fcn32s_mini", "DeepLab v1": "deeplabv1_mini", "DeepLab v3+": "deeplabv3plus_mini"}
PAPERS = {
    "VGG-16, LargeFOV (v1, Table 1a)": ["62.25", "67.64", "5.39"],
    "ResNet-101, ASPP (v2, Table 4)": ["76.35", "77.69", "1.34"],
}


def rows(cell: str) -> dict[str, list[str]]:
    """The rows of the tables in one cell of the chapter, by their first column."""
    return {first: others for first, *others in table_rows("06_crf", cell)}


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def test_table_of_the_searched_crf_holds_the_numbers_of_the_measurement() -> None:
    test = json.loads((RESULTS / "crf_scenes.json").read_text(encoding="utf-8"))["test"]
    shown = rows("measured-all")
    for title, name in MODELS.items():
        alone, preset, own = (test[f"{name}{ending}"] for ending in ("", " and v1's CRF", " and its CRF"))
        means = [each["mean_iou"] for each in (alone, preset, own)]
        near = [each["trimap_mean_iou"]["1"] for each in (alone, own)]
        wires = [each["iou"]["wire"] for each in (alone, preset, own)]
        assert shown[title] == [percent(value) for value in (*means, *near, *wires)]


def test_parameters_that_the_chapter_runs_with_are_those_that_were_found() -> None:
    searched = json.loads((RESULTS / "crf_scenes.json").read_text(encoding="utf-8"))["searched"]
    code = source("06_crf", "measured")
    names = ("appearance_weight", "appearance_sigma_xy", "appearance_sigma_rgb", "smoothness_weight")
    for row in searched:
        assert f'"{row["model"]}": {tuple(row[name] for name in names)},' in code


def test_table_of_the_trained_crf_holds_the_means_of_the_measurement() -> None:
    test = json.loads((RESULTS / "crf_layer.json").read_text(encoding="utf-8"))["test"]
    shown = list(rows("learn-read").values())[1:]
    for row, name in zip(shown, ("without CRF", "fixed CRF", "trained CRF", "- its network"), strict=True):
        values = [mean(each["mean_iou"] for each in test[name])]
        values += [mean(each["trimap_mean_iou"][width] for each in test[name]) for width in ("1", "4")]
        assert row == [percent(value) for value in values], name


@pytest.mark.parametrize("title", PAPERS)
def test_gain_is_the_difference_of_the_papers_numbers(title: str) -> None:
    shown = rows("papers")
    assert shown[title] == PAPERS[title]
    for first, values in shown.items():
        if all(re.fullmatch(r"[\d.]+", value) for value in values):
            assert float(values[1]) - float(values[0]) == pytest.approx(float(values[2]), abs=0.001), first


def test_table_of_the_benchmark_has_a_row_for_each_setting_and_a_dash_where_nothing_was_measured() -> None:
    score: dict[str, Any] = {"mean_iou": 0.5, "trimap_mean_iou": {"1": 0.25}, "iou": {"wire": None}}
    lines = table({"a model": {"test": {"alone": score, "searched": score}}}).splitlines()
    assert [line.split() for line in lines] == [
        ["a", "model", "mIoU", "1", "px", "wire"],
        ["alone", "50.0", "25.0", "-"],
        ["searched", "50.0", "25.0", "-"],
    ]
