"""The page of results: every measured file as HTML tables, with where and how it was measured.

The files are written by benchmarks/*.py and differ in what they hold, so the tables follow their structure:
evaluations side by side, lists of records as rows, all other values as settings.
"""

import json
import re
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any

from page_runtime import seconds_in_words

FOLDERS = ("book/results", "data/weights")
ORIGIN = ("command", "commit", "date", "device", "seconds", "threads", "versions")  # as benchmarks/results.py writes
WORDS = {"iou": "IoU", "mb": "MB", "s": "s", "crf": "CRF"}
MANY = 6  # columns
TABLE = """\
<div class="pst-scrollable-table-container measured" role="region" aria-label="{name}: {caption}" tabindex="0">
<table class="table">
<caption>{caption}</caption>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>
"""


def result_files(root: Path) -> list[Path]:
    """The files that the page must show."""
    return sorted(file for folder in FOLDERS for file in (root / folder).glob("*.json"))


def files_not_named(root: Path, page: str) -> list[Path]:
    """The files that a page does not name in its source."""
    return [file for file in result_files(root) if file.relative_to(root).as_posix() not in page]


def result_html(name: str, text: str) -> str:
    """One file: a line about its origin, and its tables."""
    record: dict[str, Any] = json.loads(text)
    values = {key: value for key, value in record.items() if key not in ORIGIN}
    scored = {key: value for key, value in values.items() if is_evaluation(value)}
    tables = [evaluations_html(name, "scores", scored)] if scored else []
    settings: dict[str, Any] = {}
    for key, value in values.items():
        if key in scored:
            continue
        if isinstance(value, dict) and value and all(map(is_evaluation, value.values())):
            tables.append(evaluations_html(name, key, value))
        elif isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            tables.append(rows_html(name, words(key), [flat(row) for row in value]))
        elif isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
            rows = [{"": inner, **flat(row)} for inner, row in value.items()]
            tables.append(rows_html(name, words(key), rows))
        elif isinstance(value, str) and "\n" in value:
            tables += [f"<p>{escape(line)}.</p>" for line in value.splitlines()]
        else:
            settings |= flat({key: value})
    return "\n".join([origin_html(name, record, settings), *tables])


def origin_html(name: str, record: dict[str, Any], settings: dict[str, Any]) -> str:
    """Where, when, with what and by which command a file was made."""
    versions = ", ".join(f"{key} {value}" for key, value in record.get("versions", {}).items())
    threads = record.get("threads")
    facts = [
        record.get("device"),
        f"{threads} thread{'s' if threads != 1 else ''}" if threads else None,
        seconds_in_words(record["seconds"]) if "seconds" in record else None,
        versions,
        f"commit {record['commit']}" if "commit" in record else None,
        record.get("date"),
    ]
    line = "; ".join(escape(str(fact)) for fact in facts if fact)
    command = f"<code>{escape(record['command'])}</code>" if "command" in record else "(no command recorded)"
    lines = [f"<code>{escape(name)}</code>: {line}.", f"Made by {command}."]
    if settings:
        lines.append("; ".join(f"{escape(words(key))} {shown(key, value)}" for key, value in settings.items()) + ".")
    return '<p class="measured-origin">' + "<br>".join(lines) + "</p>\n"


def is_evaluation(value: Any) -> bool:
    """True for what `Evaluation.to_json` writes, and for a list of these, one a seed."""
    if isinstance(value, list):
        return bool(value) and all(map(is_evaluation, value))
    return isinstance(value, dict) and {"iou", "mean_iou"} <= value.keys()


def evaluations_html(name: str, caption: str, scored: dict[str, Any]) -> str:
    """Evaluations side by side, in percent; of several seeds the lowest and the highest."""
    seeds = {key: value if isinstance(value, list) else [value] for key, value in scored.items()}
    columns = {key: [flat(each) for each in many] for key, many in seeds.items()}
    rows = []
    for key in dict.fromkeys(chain.from_iterable(each for many in columns.values() for each in many)):
        row: dict[str, Any] = {"": score_name(key)}
        for column, many in columns.items():
            numbers = [each[key] for each in many if each.get(key) is not None]
            row[words(column)] = int(numbers[0]) if key == "pictures" and numbers else percents(numbers)
        rows.append(row)
    most = max(len(many) for many in columns.values())
    unit = ", %" + (f"; lowest to highest of {most} seeds" if most > 1 else "")
    return rows_html(name, caption + unit, rows)


def score_name(key: str) -> str:
    """What a row of scores is called: a class by its name, a band by its width."""
    return re.sub(r"trimap mean IoU (\d+)", r"mean IoU within \1 px of a boundary", words(key).removeprefix("IoU "))


def percents(numbers: list[float]) -> str:
    shown = sorted({f"{100 * number:.1f}" for number in numbers}, key=float)
    return " to ".join(dict.fromkeys([shown[0], shown[-1]])) if shown else "no pixels"


def rows_html(name: str, caption: str, rows: list[dict[str, Any]]) -> str:
    """A table: the keys of the records are its columns, the first column names the row."""
    keys = list(dict.fromkeys(chain.from_iterable(rows)))
    if len(keys) > MANY > len(rows):  # on its side, a column a record
        rows = [{"": words(key)} | {str(n): row.get(key) for n, row in enumerate(rows, 1)} for key in keys]
        keys = list(rows[0])
    head = "".join(f'<th scope="col">{escape(words(key)) or "what"}</th>' for key in keys)
    body = []
    for row in rows:
        first, *others = (shown(key, row.get(key)) for key in keys)
        body.append(f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>")
    return TABLE.format(name=escape(name), caption=escape(caption), head=head, body="\n".join(body))


def flat(record: dict[str, Any], before: str = "") -> dict[str, Any]:
    """A nested record as one level, with the names of the levels joined."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        name = f"{before} {key}".strip()
        found |= flat(value, name) if isinstance(value, dict) else {name: value}
    return found


def words(key: str) -> str:
    """A key as a heading: "mean_iou" is "mean IoU"."""
    return " ".join(WORDS.get(word, word) for word in key.replace("_", " ").split(" "))


def shown(key: str, value: Any) -> str:
    """A value as people read it: grouped digits, three figures of a fraction, a range for two numbers."""
    if value is None:
        return "–"
    if isinstance(value, list):
        if value and isinstance(value[0], list):
            return f"{len(value)} × {len(value[0])} values, in the file"
        joint = " to " if "range" in key else ", "
        return joint.join(shown(key, each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"
    return escape(str(value))
