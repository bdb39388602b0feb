"""What a reader has solved, kept over the chapters of the course."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from deeplab_lesson.exercises.cards import MARKS
from deeplab_lesson.exercises.registry import CHAPTERS

_this_session: dict[str, str] = {}


def progress_file() -> Path | None:
    """Where progress is kept: `DEEPLAB_PROGRESS`, else a file in the home folder.

    None while the book is built or tested (`DEEPLAB_STATIC=1`): then only the present session counts, so that a page
    does not show what somebody has solved.
    """
    if os.environ.get("DEEPLAB_STATIC") == "1":
        return None
    return Path(os.environ.get("DEEPLAB_PROGRESS") or Path.home() / ".deeplab_lesson" / "progress.json")


def record(name: str, outcome: str) -> None:
    """Remember an outcome. What was correct once stays correct."""
    known = outcomes()
    if outcome == "not attempted" or known.get(name) in ("correct", outcome):
        return
    _this_session[name] = outcome
    try:
        if file := progress_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({**known, name: outcome}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    except (OSError, RuntimeError):  # a folder that cannot be written, no home: the session still knows
        pass


def outcomes() -> dict[str, str]:
    """Outcome by exercise, of this session and of what is kept; a file that cannot be read counts as empty."""
    try:
        file = progress_file()
        kept = json.loads(file.read_text(encoding="utf-8")) if file else {}
    except (OSError, RuntimeError, ValueError):
        kept = {}
    found = {name: state for name, state in kept.items() if state in MARKS} if isinstance(kept, dict) else {}
    for name, state in _this_session.items():
        if found.get(name) != "correct":
            found[name] = state
    return found


@dataclass(frozen=True)
class Progress:
    """Which exercises are correct, wrong as yet, or not attempted. A notebook shows it as a list."""

    outcomes: dict[str, str]

    def _lines(self) -> list[tuple[str, list[tuple[str, str]]]]:
        found = []
        for chapter in CHAPTERS:
            rows = [(each.name, self.outcomes.get(each.name, "not attempted")) for each in chapter.exercises]
            right = sum(state == "correct" for _, state in rows)
            found.append((f"Chapter {chapter.number}, {chapter.title}: {right} of {len(rows)} correct", rows))
        return found

    def __repr__(self) -> str:
        lines = []
        for head, rows in self._lines():
            lines += [head, *(f"  {MARKS[state]} {name}: {state}" for name, state in rows)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        html = []
        for head, rows in self._lines():
            items = "".join(f"<li>{MARKS[state]} {name}: {state}</li>" for name, state in rows)
            html.append(f'<div><strong>{head}</strong><ul style="list-style: none">{items}</ul></div>')
        return "".join(html)


def progress() -> Progress:
    """Show every exercise of the course and how far the reader is."""
    return Progress(outcomes())
