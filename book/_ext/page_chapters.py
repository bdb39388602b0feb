"""The chapters as other pages see them: a link by number, what a chapter says, and which names it uses."""

import ast
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole

CHAPTER = re.compile(r"book/(\d\d)_\w+")


@dataclass(frozen=True)
class Chapter:
    """A chapter of the book: its number, its prose, and the package's names in its cells."""

    number: int
    prose: str
    names: frozenset[str]  # as they are imported or looked up, without the package: "layers.ASPP", "cli.main"


@cache
def read_chapter(file: Path, modified: float) -> Chapter:
    """Read a chapter's notebook, once for each time that it was modified."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    texts = {kind: ["".join(c["source"]) for c in cells if c["cell_type"] == kind] for kind in ("markdown", "code")}
    return Chapter(int(file.name[:2]), "\n".join(texts["markdown"]), names_used(texts["code"]))


def names_used(sources: list[str]) -> frozenset[str]:
    """The names that cells import from the package, and those that they look up in its modules."""
    names: set[str] = set()
    modules: dict[str, str] = {}  # what something is called in the chapter, and in the package
    for source in sources:
        code = re.sub(r"^( *)[%!].*", r"\1pass", source, flags=re.MULTILINE)  # Jupyter's own commands
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "deeplab_lesson":
                inside = (node.module or "").partition(".")[2]
                for alias in node.names:
                    modules[alias.asname or alias.name] = f"{inside}.{alias.name}".lstrip(".")
                    names.add(modules[alias.asname or alias.name])
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                names.add(f"{modules[node.value.id]}.{node.attr}")
    return frozenset(names)


def chapters(env: BuildEnvironment) -> list[Chapter]:
    """The chapters that this build has, in order. The page that asks is made again when one of them changes."""
    files = [Path(env.doc2path(doc)) for doc in sorted(env.found_docs) if CHAPTER.fullmatch(doc)]
    for file in files:
        env.note_dependency(str(file))
    return [read_chapter(file, file.stat().st_mtime) for file in files if file.suffix == ".ipynb"]


class ChapterLink(SphinxRole):
    """Link a chapter, `3` or at the beginning of a sentence `Chapter 3`, or a heading in it, `3#gridding`.

    It is plain text as long as there is no such chapter.
    """

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        text, _, anchor = self.text.partition("#")
        number = text.removeprefix("Chapter ")
        text = text if text != number else f"chapter {number}"
        for doc in self.env.found_docs:
            found = CHAPTER.fullmatch(doc)
            if found and int(found[1]) == int(number):
                address = self.env.app.builder.get_relative_uri(self.env.docname, doc)
                address += f"#{anchor}" if anchor else ""
                return [nodes.reference(self.rawtext, text, refuri=address, internal=True)], []
        return [nodes.Text(text)], []
