"""Write the ablation's numbers into the chapters: `python -m benchmarks.ablation_tables`, after `benchmarks.ablation`.

In a chapter's Markdown cell, everything from the first line of a table to the cell's end is written by this command.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.results import ROOT

RESULTS = ROOT / "book" / "results" / "ablation_cpu.json"
BASE = "DeepLab v3+"
GLUE = "\N{NO-BREAK SPACE}"  # a number and its spread stay on one line of a narrow column
NOTHING = "*No row of this table has been measured yet: `python -m benchmarks.ablation` goes on where it was stopped.*"


@dataclass(frozen=True)
class Table:
    """Where a table stands, and what it shows besides the mean IoU and the trimap."""

    notebook: str
    cell: str
    part: str
    classes: tuple[str, ...]


TABLES = (
    Table("07_aspp", "ablation-table", "context", ("disk", "star", "wire")),
    Table("08_decoder", "ablation-table", "decoder", ("wire", "pebble", "star")),
    Table("09_losses", "ablation-table", "losses", ("wire", "seed", "crescent")),
    Table("09_losses", "ablation-optimization", "optimization", ("wire", "seed", "crescent")),
    Table("11_train", "ablation-table", "family", ("disk", "star", "wire")),
)


def written(values: dict[str, Any], table: Table) -> str:
    """The table as Markdown, with a line below that says how it was measured; without rows, that there are none yet."""
    rows = dict(values[table.part])
    if table.part in ("decoder", "losses", "optimization") and BASE in values["family"]:
        rows = {BASE: values["family"][BASE], **rows}
    if not values[table.part]:
        return NOTHING
    costs = {each["row"]: each["multiply_adds"] for each in values["models"]}
    head = ["", "mean IoU %", "within 1 px", *table.classes, "multiply-adds"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)]
    for name, scores in rows.items():
        shares = [
            [score["mean_iou"] for score in scores],
            [score["trimap_mean_iou"]["1"] for score in scores],
            *([score["iou"][one] or 0.0 for score in scores] for one in table.classes),
        ]
        cells = [name, *map(percent, shares), f"{costs[name] / 1e6:.0f} M"]
        lines.append(f"| {' | '.join(cells)} |")
    seeds = sorted({len(scores) for scores in rows.values()})
    number, ending = " or ".join(map(str, seeds)), "" if seeds == [1] else "s"
    spread = "; behind ±, their standard deviation" if seeds[-1] > 1 else ""
    lines += [
        "",
        f"*`python -m benchmarks.ablation`, {values['date']}: {values['steps']:,} steps of {values['batch_size']} "
        f"scenes from random weights, {values['test_pictures']} test scenes, {number} seed{ending} a row{spread}. A "
        "short training: compare rows, not these numbers with those of the weights that come with the course.*",
    ]
    return "\n".join(lines)


def percent(shares: list[float]) -> str:
    """The mean, in percent, and the spread where there are several."""
    spread = f"{GLUE}±{GLUE}{100 * stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * mean(shares):.1f}{spread}"


def source_of(notebook: dict[str, Any], cell: str) -> str | None:
    """The text of the cell with this id, if there is one."""
    return next(("".join(each["source"]) for each in notebook["cells"] if each["id"] == cell), None)


def renewed(source: str, text: str) -> str:
    """A cell's text with everything from its table on, or from the line that stands in its place, replaced."""
    found = re.search(rf"^(\| |{re.escape(NOTHING[:20])})", source, re.MULTILINE)
    before = source[: found.start()] if found else source.rstrip("\n") + "\n\n"
    return before + text


def main(book: Path = ROOT / "book", results: Path = RESULTS) -> None:
    """Write each table into its chapter."""
    values = json.loads(results.read_text(encoding="utf-8"))
    for table in TABLES:
        path = book / f"{table.notebook}.ipynb"
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["id"] == table.cell:
                text = renewed("".join(cell["source"]), written(values, table))
                cell["source"] = text.splitlines(keepends=True)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{path.name}, {table.cell}: {len(values[table.part])} rows")


if __name__ == "__main__":
    main()
