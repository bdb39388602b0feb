"""Bring chapters into the one form in which they are stored.

    python book/_ext/normalize.py book/*.ipynb           run each chapter and store it
    python book/_ext/normalize.py --check book/*.ipynb   run nothing; exit 1 if a chapter is not in that form

Only text outputs are stored: pictures and sliders are made when the book is built. Of a matplotlib figure its line
of text stays, <Figure size 600x300 with 2 Axes>, because nbval finds that line when it runs the chapter. Running the
command again gives the same file, byte for byte.
"""

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
FORMAT = (4, 5)  # the first with cell ids
KEPT_OF_CELLS = {"cellView", "jupyter", "mystnb", "tags"}  # the rest are an editor's notes: timings, foldings
ALLOWED_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
NO_OUTPUT = "nbval-ignore-output"
FIGURE = "<Figure size "
PICTURE_IN_HTML = "data:image/"
NOT_STORED = ("image/", "application/vnd.jupyter.widget")
SECONDS_A_CELL = 1800  # a loaded machine is slow, and that is no fault of the chapter


def execute(notebook: NotebookNode, folder: Path) -> None:
    """Run all cells in a fresh kernel whose working directory is the chapter's folder."""
    os.environ["DEEPLAB_STATIC"] = "1"  # the kernel inherits it: sliders become pre-computed frames
    client = NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()


def stored_outputs(cell: NotebookNode) -> list[NotebookNode]:
    """The outputs of a cell that a chapter keeps: printed text, and results that are text."""
    if NO_OUTPUT in cell.metadata.get("tags", []):
        return []
    kept: list[NotebookNode] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if kept and kept[-1].output_type == "stream":  # how the kernel cut the text is chance
                kept[-1].text += output.text
                continue
        elif output.output_type == "error":
            output.traceback = []  # holds paths and colors
        elif any(kind.startswith(NOT_STORED) for kind in output.data):
            line = output.data.get("text/plain", "")
            if not line.startswith(FIGURE):
                continue
            output.data, output.metadata = NotebookNode({"text/plain": line}), NotebookNode()
        else:
            if PICTURE_IN_HTML in output.data.get("text/html", ""):
                del output.data["text/html"]  # figures and sliders are made by the build; their line of text stays
            output.metadata = NotebookNode()
        kept.append(output)
    return kept


def read(file: Path) -> NotebookNode:
    """A notebook of format 4, whatever its ids: keep those that are allowed and unique, make the others.

    nbformat's own reader would replace an id that is there twice by a random one.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    used: set[str] = set()
    for place, cell in enumerate(content["cells"]):
        if not ALLOWED_ID.fullmatch(cell.get("id", "")) or cell["id"] in used:
            cell["id"] = hashlib.sha256(f"{place}\n{''.join(cell['source'])}".encode()).hexdigest()[:8]
        used.add(cell["id"])
    content["nbformat"], content["nbformat_minor"] = FORMAT
    return nbformat.reads(json.dumps(content), as_version=FORMAT[0])


def normalize(notebook: NotebookNode) -> None:
    """Change an executed notebook into its stored form."""
    notebook.metadata = nbformat.from_dict(METADATA)
    count = 0
    for cell in notebook.cells:
        cell.metadata = NotebookNode({key: value for key, value in cell.metadata.items() if key in KEPT_OF_CELLS})
        cell.source = cell.source.rstrip("\n")
        cell.pop("attachments", None)
        if cell.cell_type == "code":
            count += 1
            cell.outputs = stored_outputs(cell)
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count


def text(notebook: NotebookNode) -> str:
    """The notebook as it stands in its file."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def problems(file: Path) -> Iterator[str]:
    """What is not normal about a stored chapter, found without running it."""
    content = json.loads(file.read_text(encoding="utf-8"))
    if (content.get("nbformat"), content.get("nbformat_minor")) != FORMAT:
        yield f"has format {content.get('nbformat')}.{content.get('nbformat_minor')}, not {FORMAT[0]}.{FORMAT[1]}"
        return
    ids = [cell.get("id", "") for cell in content["cells"]]
    wrong = sorted({name for name in ids if not ALLOWED_ID.fullmatch(name) or ids.count(name) > 1})
    if wrong:
        yield f"has cell ids that are missing, not allowed, or there twice: {', '.join(map(repr, wrong))}"
        return
    notebook = read(file)
    if notebook.metadata != METADATA:
        yield "has other metadata than a kernelspec for python3"
    if file.read_text(encoding="utf-8") != text(notebook):
        yield "is not written with sorted keys, one space of indent and a newline at its end"
    count = 0
    for place, cell in enumerate(notebook.cells):
        where = f"cell {place} ({cell.id})"
        if extra := set(cell.metadata) - KEPT_OF_CELLS:
            yield f"{where}: has metadata {', '.join(sorted(extra))}"
        if cell.cell_type != "code":
            continue
        count += 1
        if cell.execution_count != count:
            yield f"{where}: has execution count {cell.execution_count}, not {count}"
        before = [dict(output) for output in cell.outputs]
        if [dict(output) for output in stored_outputs(cell)] != before:
            yield f"{where}: stores pictures, widgets, stderr, or output although its tag forbids it"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="run and change nothing")
    options = parser.parse_args(arguments)
    if options.check:
        found = [f"{file}: {problem}" for file in options.notebooks for problem in problems(file)]
        print("\n".join(found) or f"{len(options.notebooks)} notebooks are normal", file=sys.stdout)
        return 1 if found else 0
    for file in options.notebooks:
        notebook = read(file)
        execute(notebook, file.resolve().parent)
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                if output.output_type == "stream" and output.name == "stderr":
                    print(f"{file}: cell {cell.get('id')} writes to stderr, and the book's build refuses that:")
                    print(output.text)
        normalize(notebook)
        file.write_text(text(notebook), encoding="utf-8")
        print(f"{file}: run and stored")
    return 0


if __name__ == "__main__":
    sys.exit(main())
