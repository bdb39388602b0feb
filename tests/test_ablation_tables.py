"""The chapters' tables of single parts are those that benchmarks.ablation measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ablation import PARTS
from benchmarks.ablation_tables import RESULTS, TABLES, Table, main, percent, renewed, source_of, written

BOOK = Path(__file__).resolve().parents[1] / "book"
SCORE: dict[str, Any] = {
    "mean_iou": 0.5,
    "trimap_mean_iou": {"1": 0.25},
    "iou": {"disk": 0.75, "star": None, "wire": 0.125},
}
SCORE["iou"] |= {"pebble": 0.0, "seed": 0.0, "crescent": 0.0}
MADE = {
    "date": "2026-01-01", "steps": 2000, "batch_size": 8, "test_pictures": 512,
    "models": [{"row": "DeepLab v1", "multiply_adds": 2_000_000}, {"row": "DeepLab v3+", "multiply_adds": 3_000_000}],
    "family": {"DeepLab v1": [SCORE], "DeepLab v3+": [SCORE, {**SCORE, "mean_iou": 0.6}]},
    "context": {}, "decoder": {}, "losses": {}, "optimization": {},
}  # fmt: skip
FAMILY = Table("11_train", "ablation-table", "family", ("disk", "star", "wire"))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.notebook}-{table.cell}")
def test_a_chapters_table_is_the_measurement(table: Table) -> None:
    values = json.loads(RESULTS.read_text(encoding="utf-8"))
    notebook = json.loads((BOOK / f"{table.notebook}.ipynb").read_text(encoding="utf-8"))
    source = source_of(notebook, table.cell)
    assert source is not None, f"{table.notebook} has no cell {table.cell}"
    assert source == renewed(source, written(values, table)), "run python -m benchmarks.ablation_tables"


def test_each_part_of_the_ablation_has_a_table_in_a_chapter() -> None:
    assert {table.part for table in TABLES} == set(PARTS)


def test_a_row_holds_means_over_seeds_and_their_spread() -> None:
    lines = written(MADE, FAMILY).splitlines()
    assert lines[2] == "| DeepLab v1 | 50.0 | 25.0 | 75.0 | 0.0 | 12.5 | 2 M |"
    spreads = "55.0 ± 7.1 | 25.0 ± 0.0 | 75.0 ± 0.0 | 0.0 ± 0.0 | 12.5 ± 0.0".replace(
        " ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"
    )
    assert lines[3] == f"| DeepLab v3+ | {spreads} | 3 M |"
    assert "2,000 steps of 8 scenes" in lines[-1]
    assert "1 or 2 seeds a row" in lines[-1]


def test_the_other_parts_begin_with_v3plus_itself() -> None:
    made = {**MADE, "decoder": {"DeepLab v1": [SCORE]}}
    lines = written(made, Table("08_decoder", "ablation-table", "decoder", ())).splitlines()
    assert lines[2].startswith("| DeepLab v3+ | 55.0")
    assert lines[3].startswith("| DeepLab v1 | 50.0")
    assert percent([0.5]) == "50.0"


def test_a_table_without_rows_says_so_and_goes_when_there_are_some() -> None:
    nothing = written(MADE, Table("07_aspp", "ablation-table", "context", ()))
    assert "|" not in nothing
    assert renewed(f"Words.\n\n{nothing}", "| new |") == "Words.\n\n| new |"
    assert renewed("Words.\n\n| old |", nothing) == f"Words.\n\n{nothing}"


def test_what_stands_before_a_table_stays_and_the_old_table_goes() -> None:
    assert renewed("Words.\n\n| old |\n|---|\n\n*How.*", "| new |") == "Words.\n\n| new |"
    assert renewed("Words.", "| new |") == "Words.\n\n| new |"
    assert renewed("| old |\n|---|", "| new |") == "| new |"


def test_the_command_writes_all_tables_and_nothing_else(tmp_path: Path) -> None:
    for name in {table.notebook for table in TABLES}:
        cells = [{"id": "first", "source": ["Before."]}]
        cells += [{"id": table.cell, "source": ["Words."]} for table in TABLES if table.notebook == name]
        (tmp_path / f"{name}.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    (tmp_path / "made.json").write_text(json.dumps(MADE), encoding="utf-8")
    main(tmp_path, tmp_path / "made.json")
    main(tmp_path, tmp_path / "made.json")  # again: nothing is doubled
    notebook = json.loads((tmp_path / "11_train.ipynb").read_text(encoding="utf-8"))
    assert source_of(notebook, "first") == "Before."
    assert source_of(notebook, "ablation-table") == "Words.\n\n" + written(MADE, FAMILY)
