"""The list of works, from references.bib: authors, title, venue, link, and the chapters that cite it."""

import re
from pathlib import Path
from typing import Protocol

from pybtex.database import Entry, parse_file


class Citing(Protocol):
    """What is needed of a chapter."""

    @property
    def number(self) -> int: ...

    @property
    def prose(self) -> str: ...


def group(entry: Entry) -> str:
    return str(entry.fields["keywords"])


def link(entry: Entry) -> str:
    """The address of a work: arXiv's where it has a number there."""
    number = entry.fields.get("eprint")
    return f"https://arxiv.org/abs/{number}" if number else str(entry.fields["url"])


def works_markdown(file: Path, wanted: str, chapters: list[Citing]) -> str:
    """The works of one group as a list, oldest first.

    Raises:
        ValueError: a group without works, a work without a link.
    """
    entries = [entry for entry in parse_file(str(file), bib_format="bibtex").entries.values() if group(entry) == wanted]
    if not entries:
        raise ValueError(f"{file.name} has no work with keywords = {{{wanted}}}")
    entries.sort(key=lambda entry: (entry.fields["year"], link(entry)))
    return "\n".join(line(entry, chapters) for entry in entries)


def line(entry: Entry, chapters: list[Citing]) -> str:
    """One work as an entry of a list."""
    fields = entry.fields
    people = [" ".join([*person.prelast_names, *person.last_names]) for person in entry.persons["author"]]
    people = [name if name != "others" else "and others" for name in people]
    venue = fields.get("booktitle") or fields.get("journal") or fields.get("publisher")
    place = f"{venue}, " if venue else ""
    name = f"arXiv {fields['eprint']}" if "eprint" in fields else re.sub(r"https?://(www\.)?|/$", "", fields["url"])
    citing = [chapter.number for chapter in chapters if (fields.get("eprint") or fields["url"]) in chapter.prose]
    cited = ", ".join(f"{{chapter}}`{number}`" for number in citing)
    note = f" {fields['note']}." if "note" in fields else ""
    title = fields["title"].replace("{", "").replace("}", "")
    text = f"- {', '.join(people)}. *{title}*. {place}{fields['year']}. [{name}]({link(entry)}).{note}"
    return text + (f" Cited in {cited}." if cited else "")
