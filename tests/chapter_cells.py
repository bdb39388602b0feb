"""What a chapter says and prints, for tests that hold quoted numbers to where they come from."""

import json
from pathlib import Path
from typing import Any

BOOK = Path(__file__).resolve().parents[1] / "book"


def source(chapter: str, cell: str) -> str:
    """The text of the one cell with this id."""
    return "".join(_cell(chapter, cell)["source"])


def printed(chapter: str, cell: str) -> str:
    """What the cell with this id printed when the chapter was stored."""
    return "".join("".join(output.get("text", "")) for output in _cell(chapter, cell)["outputs"])


def whole_text(chapter: str) -> str:
    """The sources of all cells."""
    return "\n".join("".join(cell["source"]) for cell in _cells(chapter))


def table_rows(chapter: str, cell: str) -> list[list[str]]:
    """The rows of the tables in a cell, headings among them, without the rules and without bold type."""
    lines = (line.strip("|") for line in source(chapter, cell).splitlines() if line.startswith("| "))
    return [[part.strip(" *") for part in line.split("|")] for line in lines]


def means(rows: list[list[str]], column: int) -> dict[str, float]:
    """The numbers in one column of a table by its rows' names, without the spread behind them."""
    return {name: float(cells[column].split("±")[0]) for name, *cells in rows}


def _cells(chapter: str) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads((BOOK / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
    return cells


def _cell(chapter: str, cell: str) -> dict[str, Any]:
    (found,) = (each for each in _cells(chapter) if each["id"] == cell)
    return found
