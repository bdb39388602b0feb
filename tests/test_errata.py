"""The page of errata: every known error is there once, with what is right and where that is written.

tests/data/errata.csv is the list: the number of each error, whether a cell settles it or a table's row, and the claim.
A rule looks at the page and says what is wrong; each is also shown a copy of the page in which something is.
"""

import copy
import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
LIST = {line["number"]: line for line in csv.DictReader((ROOT / "tests/data/errata.csv").open(encoding="utf-8"))}
HEADING = re.compile(r"^### (E\d+(?:, E\d+)*)\. (.+)$", re.MULTILINE)
TABLE_ROW = re.compile(r"^\| (E\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
SOURCE = r"\]\(https?://[\w.-]+\.\w+[^)\s]*\)"
WITHOUT_A_LINK = ("arithmetic", "our search", "our look-up", "the article itself")
PLACES_OF_ARTICLES = ("csdn", "zhihu", "juejin", "jianshu", "medium.com", "towardsdatascience")


class Row(NamedTuple):
    """One error, or several that one cell settles."""

    numbers: list[str]
    cell: str  # id of the Markdown cell with the claim
    settled_by: str  # "cell" or "table"
    right: str
    source: str
    outputs: int  # code cells under the heading that print or draw


def rows(page: NotebookNode) -> Iterator[Row]:
    for place, cell in enumerate(page.cells):
        if cell.cell_type != "markdown":
            continue
        for found in TABLE_ROW.finditer(cell.source):
            number, _, right, source = found.groups()
            yield Row([number], cell.id, "table", right, source, 0)
        if heading := HEADING.search(cell.source):
            below = page.cells[place + 1 :]
            end = next((n for n, each in enumerate(below) if re.search("^##", each.source, re.MULTILINE)), len(below))
            text = "\n\n".join(each.source for each in below[:end] if each.cell_type == "markdown")
            right, _, source = text.partition("*Source:*")
            code = [each for each in below[:end] if each.cell_type == "code"]
            yield Row(heading[1].split(", "), cell.id, "cell", right, source, sum(bool(each.outputs) for each in code))


# ---- the rules -----------------------------------------------------------------------------------------------------

Rule = Callable[[NotebookNode], Iterator[str]]


def every_error_once(page: NotebookNode) -> Iterator[str]:
    here = [number for row in rows(page) for number in row.numbers]
    yield from (f"{number} is missing" for number in LIST if number not in here)
    yield from (f"{number} stands there {here.count(number)} times" for number in LIST if here.count(number) > 1)
    yield from (f"{number} is not in tests/data/errata.csv" for number in here if number not in LIST)


def settled_as_listed(page: NotebookNode) -> Iterator[str]:
    for row in rows(page):
        for number in row.numbers:
            if number in LIST and LIST[number]["settled by"] != row.settled_by:
                yield f"cell {row.cell}: {number} is settled by a {row.settled_by}"
        if row.settled_by == "cell" and not row.outputs:
            yield f"cell {row.cell}: no code cell under {', '.join(row.numbers)} prints anything"


def right_and_source(page: NotebookNode) -> Iterator[str]:
    for row in rows(page):
        if len(row.right.split()) < 4:
            yield f"cell {row.cell}: {row.numbers[0]} does not say what is right"
        if not re.search(SOURCE, row.source) and not any(word in row.source for word in WITHOUT_A_LINK):
            yield f"cell {row.cell}: {row.numbers[0]} has no source"


def links_lead_somewhere(page: NotebookNode) -> Iterator[str]:
    text = {cell.id: cell.source for cell in page.cells if cell.cell_type == "markdown"}
    titles = re.findall(r"^#+ (.+)$", "\n".join(text.values()), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    for name, source in text.items():
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", source):
            file, _, anchor = target.partition("#")
            if (file and not (BOOK / file).is_file()) or (not file and anchor not in anchors):
                yield f"cell {name}: the link to {target} is dead"


def no_article_is_named(page: NotebookNode) -> Iterator[str]:
    for cell in page.cells:
        for word in PLACES_OF_ARTICLES:
            if word in cell.source.lower():
                yield f"cell {cell.id}: names {word}; the page speaks of statements, not of who wrote them"


RULES: tuple[Rule, ...] = (
    every_error_once,
    settled_as_listed,
    right_and_source,
    links_lead_somewhere,
    no_article_is_named,
)


@pytest.fixture(scope="module")
def page() -> NotebookNode:
    return nbformat.read(BOOK / "errata.ipynb", as_version=4)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_page_keeps_the_rule(page: NotebookNode, rule: Rule) -> None:
    assert list(rule(page)) == []


def test_the_list_has_every_number_once_and_a_claim_for_each() -> None:
    lines = (ROOT / "tests/data/errata.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(lines) == len(LIST)
    assert {line["settled by"] for line in LIST.values()} == {"cell", "table"}
    assert all(len(line["claim"].split()) >= 3 for line in LIST.values())


# ---- each rule finds what it is for --------------------------------------------------------------------------------


def change(cell: str, old: str, new: str) -> Callable[[NotebookNode], None]:
    def apply(page: NotebookNode) -> None:
        (found,) = (each for each in page.cells if each.id == cell)
        assert old in found.source
        found.source = found.source.replace(old, new, 1)

    return apply


def silence(cell: str) -> Callable[[NotebookNode], None]:
    def apply(page: NotebookNode) -> None:
        next(each for each in page.cells if each.id == cell).outputs = []

    return apply


@pytest.mark.parametrize(
    ("rule", "spoil", "said"),
    [
        (every_error_once, change("e7-claim", "E7", "E11"), "E7 is missing"),
        (every_error_once, change("e7-claim", "E7", "E11"), "E11 is not in"),
        (every_error_once, change("e10-claim", "E10.", "E10, E7."), "E7 stands there 2 times"),
        (every_error_once, change("versions-table", "| E9 |", "| |"), "E9 is missing"),
        (settled_as_listed, silence("e14-cell"), "cell e14-claim: no code cell under E14"),
        (settled_as_listed, change("e10-claim", "E10.", "E10, E9."), "cell e10-claim: E9 is settled by a cell"),
        (right_and_source, change("e15-right", "*Source:*", "Source:"), "cell e15-claim: E15 has no source"),
        (right_and_source, change("e20-right", "(https://arxiv.org", "(arxiv"), "cell e20-claim: E20 has no source"),
        (links_lead_somewhere, change("e15-right", "03_atrous_convolution", "03_atrous"), "03_atrous.ipynb is dead"),
        (links_lead_somewhere, change("title", "**The CRF**", "[The CRF](#crf)"), "the link to #crf is dead"),
        (no_article_is_named, change("title", "three articles", "blog.csdn.net"), "cell title: names csdn"),
    ],
)
def test_a_rule_finds_what_it_is_for(
    page: NotebookNode, rule: Rule, spoil: Callable[[NotebookNode], None], said: str
) -> None:
    spoiled = copy.deepcopy(page)
    spoil(spoiled)
    assert any(said in problem for problem in rule(spoiled)), list(rule(spoiled))
