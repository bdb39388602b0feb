"""The map from what the three articles describe to where the course has it: docs/coverage.md."""

import csv
import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAP = ROOT / "docs" / "coverage.md"
ROW = re.compile(r"^\| (A\d+) \| (.+?) \| (.*?) \| (.*?) \|$", re.MULTILINE)
PLACE = re.compile(r"\[\w+\]\((?P<file>[^)#]+)\)(?:: (?P<heading>[^;]+))?")
NAME = re.compile(r"`([\w.]+)`")


def rows(text: str) -> list[tuple[str, str, str, str]]:
    return ROW.findall(text)


def headings(page: Path) -> set[str]:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return set(re.findall(r"^##+ (.+)$", text, re.MULTILINE))


def missing(row: tuple[str, str, str, str]) -> list[str]:
    """What a row names and the course does not have."""
    number, _, pages, names = row
    problems = [] if pages or names else [f"{number} names neither a page nor a name"]
    for place in PLACE.finditer(pages):
        page = MAP.parent / place["file"]
        if not page.is_file():
            problems.append(f"{number}: there is no {place['file']}")
        elif place["heading"] and place["heading"] not in headings(page):
            problems.append(f"{number}: {page.name} has no section {place['heading']!r}")
    problems += [f"{number}: there is no deeplab_lesson.{name}" for name in NAME.findall(names) if not exists(name)]
    return problems


def exists(name: str) -> bool:
    module, _, attribute = f"deeplab_lesson.{name}".rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return False


def test_every_thing_of_the_inventory_has_one_row() -> None:
    with (ROOT / "tests/data/inventory.csv").open(encoding="utf-8") as lines:
        wanted = [(line["number"], line["what"]) for line in csv.DictReader(lines)]
    assert len(wanted) == 120
    assert [row[:2] for row in rows(MAP.read_text(encoding="utf-8"))] == wanted


@pytest.mark.parametrize("row", rows(MAP.read_text(encoding="utf-8")), ids=lambda row: row[0])
def test_page_section_and_name_of_a_row_exist(row: tuple[str, str, str, str]) -> None:
    assert missing(row) == []


@pytest.mark.parametrize(
    ("pages", "names", "says"),
    [
        ("", "", "names neither"),
        ("[12](../book/12_none.ipynb)", "", "there is no ../book/12_none.ipynb"),
        ("[05](../book/05_deeplabv1.ipynb): Magic", "", "has no section 'Magic'"),
        ("", "`crf.mean_field`, `crf.meanfield`", "there is no deeplab_lesson.crf.meanfield"),
        ("", "`magic.wand`", "there is no deeplab_lesson.magic.wand"),
    ],
)
def test_a_row_that_leads_nowhere_is_seen(pages: str, names: str, says: str) -> None:
    problems = missing(("A1", "magic", pages, names))
    assert len(problems) == 1
    assert says in problems[0]
