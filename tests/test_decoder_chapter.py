"""Chapter 8 quotes papers and measurements that a reader's machine does not repeat: its tables are their numbers."""

import json
from pathlib import Path
from typing import Any

import chapter_cells
import pytest

from benchmarks.ablation import PARTS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "book" / "results"
AS_IT_IS = "v3+ as it is"
SKIP = {"8": 77.61, "16": 77.92, "32": 78.16, "48": 78.21, "64": 77.94}  # v3+ table 1
BEHIND_THE_JOIN = [78.21, 78.85, 78.02, 77.25, 78.07, 78.61, 77.21]  # table 2; the last is v3's, table 3
STRIDES = [  # table 3: evaluated at, decoder, mean IoU, multiply-adds
    ["16", "no", "77.21", "81.02 B"],
    ["8", "no", "78.51", "276.18 B"],
    ["16", "yes", "78.85", "101.28 B"],
    ["8", "yes", "79.35", "297.92 B"],
]


def source(cell: str) -> str:
    return chapter_cells.source("08_decoder", cell)


def rows(cell: str) -> list[list[str]]:
    return chapter_cells.table_rows("08_decoder", cell)


def read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return values


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def test_tables_of_the_papers_ablations_hold_its_numbers() -> None:
    heading, skip, _, *behind = rows("xception-cost-read")
    assert dict(zip(heading[1:], map(float, skip[1:]), strict=True)) == SKIP
    assert [float(row[1]) for row in behind] == BEHIND_THE_JOIN


def test_table_of_output_strides_holds_the_papers_numbers() -> None:
    assert rows("ablation-read")[1:] == STRIDES


def test_gain_of_the_crf_is_that_of_the_measurement() -> None:
    test = read("crf_scenes.json")["test"]
    shown = {first: others for first, *others in rows("gain-read")}
    for title, name in (("DeepLab v1", "deeplabv1_mini"), ("DeepLab v3+", "deeplabv3plus_mini")):
        alone, own = (test[f"{name}{ending}"] for ending in ("", " and its CRF"))
        values = [alone["mean_iou"], own["mean_iou"]]
        values += [each["trimap_mean_iou"]["1"] for each in (alone, own)]
        assert shown[title] == [percent(value) for value in values]
    assert f"adds {float(shown['DeepLab v3+'][1]) - float(shown['DeepLab v3+'][0]):.1f} points" in source("gain-read")


def test_what_the_ablations_table_is_said_to_show_stands_in_it() -> None:
    _, *shown = rows("ablation-table")
    mean, pebble = (chapter_cells.means(shown, column) for column in (0, 3))
    ours = mean["DeepLab v3+"]
    assert f"brings {ours - mean['no decoder']:.1f} points" in source("ablation-read")
    assert pebble["one 3x3"] == pebble["no decoder"] == 0  # "the pebbles are lost again"
    skips = [mean["4 low-level channels"], ours, mean["48 low-level channels"]]
    assert max(skips) - min(skips) < 3  # "within three points"
    assert skips != sorted(skips)  # "and not in order"
    assert round(mean["output stride 8"] - ours) == 5  # "gains five points"
    assert ours - mean["separable"] > 5  # "learn more slowly here"


def test_speed_of_training_is_that_of_the_measurement() -> None:
    measured = {
        (row["name"], row["output_stride"]): row["pictures_per_second"] for row in read("models_minis_cpu.json")["rows"]
    }
    _, *shown = rows("measured-intro")
    for (title, *values), name in zip(shown, ("deeplabv3_mini", "deeplabv3plus_mini"), strict=True):
        assert values == [f"{measured[name, stride]:.0f}" for stride in (16, 8)], title


@pytest.mark.parametrize("row", ["v3+ as it is", "no decoder", "separable", "output stride 8"])
def test_cell_that_prints_the_price_builds_the_models_of_the_ablation(row: str) -> None:
    changes: dict[str, dict[str, Any]] = {}
    code = source("ablation-cost").partition("for name, options")[0]
    exec(code, changes)
    wanted = {} if row == AS_IT_IS else dict(PARTS["decoder"][row].options)
    assert changes["CHANGES"][row] == wanted
