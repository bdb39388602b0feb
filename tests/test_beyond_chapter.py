"""Chapter 10 quotes a measurement that a reader's machine does not repeat, and papers: it holds their numbers."""

import json
import re
from pathlib import Path

import pytest
from chapter_cells import printed, source, table_rows, whole_text

ROOT = Path(__file__).resolve().parents[1]
RESULT = json.loads((ROOT / "book" / "results" / "pseudo_labels.json").read_text(encoding="utf-8"))
RUNS = ("supervised", "student 1", "supervised long", "all labels")
CHAPTER = "10_beyond"


def text(cell: str) -> str:
    return source(CHAPTER, cell)


def rows(cell: str) -> list[list[str]]:
    """The rows of the tables in one cell, headings and rules aside."""
    return table_rows(CHAPTER, cell)[1:]


def percents(shares: list[float]) -> str:
    return ", ".join(f"{100 * share:.1f}" for share in shares)


def test_table_of_pseudo_labels_holds_the_numbers_of_the_measurement() -> None:
    assert [row[1] for row in rows("pseudo-table")] == [percents(RESULT["test_mean_iou"][run]) for run in RUNS]


def test_words_around_the_table_are_those_of_the_measurement() -> None:
    labeled, unlabeled = RESULT["labeled"], RESULT["unlabeled"]
    assert f"{labeled} of {labeled + unlabeled:,} training scenes have labels, two seeds" in text("pseudo-read")
    assert f"every run with {RESULT['steps']:,} steps" in text("pseudo-read")
    assert len(RESULT["seeds"]) == 2
    assert RESULT["command"].startswith(re.findall(r"`(python -m [\w.]+)`", text("pseudo-read"))[0])
    assert rows("pseudo-table")[1][0].startswith(f"the same and {unlabeled} scenes")
    right = {f"{100 * each[0]['right_of_kept']:.0f} %" for each in RESULT["pseudo_labels"]}
    assert right == {"76 %"}
    assert "76 % are right" in text("pseudo-table")


def test_what_the_chapter_concludes_is_what_was_measured() -> None:
    scores = RESULT["test_mean_iou"]
    for seed in range(2):
        assert scores["student 1"][seed] < scores["supervised"][seed]
        assert scores["supervised"][seed] < scores["supervised long"][seed] < scores["all labels"][seed]
        assert 0.045 <= scores["all labels"][seed] - scores["supervised"][seed] < 0.085, "5 to 8 points"


def test_weights_of_the_scales_go_by_class_as_it_is_said() -> None:
    lines = re.findall(
        r"^(\w+) +1\.5: ([\d.]+), 1: [\d.]+, 0\.75: ([\d.]+)$", printed(CHAPTER, "fit-run"), re.MULTILINE
    )
    large = {name: float(weight) for name, weight, _ in lines}
    small = {name: float(weight) for name, _, weight in lines}
    assert min(large["background"], large["disk"]) > 0.9  # "nearly all of it at scale 1.5"
    assert large["square"] == pytest.approx(0.5, abs=0.05)
    assert (small["triangle"], small["crescent"]) == pytest.approx((0.5, 0.5), abs=0.06)  # "about half of it at 0.75"
    assert large["seed"] > 0.8


def test_gains_of_several_looks_are_differences_of_the_papers_numbers() -> None:
    shown = {first: [float(value) for value in values] for first, *values in rows("papers") if first.startswith("v3,")}
    assert shown == {
        "v3, cascade (ResNet-101)": [78.05, 78.93, 79.35],
        "v3, ASPP (ResNet-101)": [78.51, 79.45, 79.77],
    }
    for one, scales, both in shown.values():
        assert scales - one == pytest.approx(0.9, abs=0.05)
        assert 0.3 <= both - scales <= 0.43
    assert "gains 0.9 points by scales and 0.3 to 0.4 by mirror images" in text("papers-read")


def test_every_arxiv_number_in_the_chapter_stands_in_the_references() -> None:
    known = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    numbers = set(re.findall(r"\b\d{4}\.\d{4,5}\b", whole_text(CHAPTER)))
    assert len(numbers) > 15
    assert {number for number in numbers if f"{{{number}}}" not in known} == set()
