"""What stands in a chapter's Markdown, for tests that hold quoted numbers to where they come from."""

import json
from pathlib import Path

BOOK = Path(__file__).resolve().parents[1] / "book"


def source(chapter: str, cell: str) -> str:
    """The text of the one cell with this id."""
    notebook = json.loads((BOOK / f"{chapter}.ipynb").read_text(encoding="utf-8"))
    (found,) = ("".join(each["source"]) for each in notebook["cells"] if each["id"] == cell)
    return found


def table_rows(chapter: str, cell: str) -> list[list[str]]:
    """The rows of the tables in a cell, headings among them, without the rules and without bold type."""
    lines = (line.strip("|") for line in source(chapter, cell).splitlines() if line.startswith("| "))
    return [[part.strip(" *") for part in line.split("|")] for line in lines]
