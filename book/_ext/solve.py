"""Make solved copies of the chapters, in which each exercise's stub is replaced by its reference.

    python book/_ext/solve.py _build/solved book/*.ipynb     write copies of the chapters that have exercises
    python book/_ext/solve.py --check book/*.ipynb           write nothing; exit 1 if a stub is not in order

nbval runs every chapter as committed, where each check says "not attempted", and this copy, where each says "correct".
The copy holds the exercises and what they build on; the rest of the chapter would only run a second time.
A stub is a code cell with the tag `exercise:NAME`, such as `exercise:atrous.effective_kernel`, that holds what
`find(NAME).stub` gives. Its check is a later cell that ends with `check("NAME", function)`.
"""

import argparse
import ast
import copy
import shutil
import symtable
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from deeplab_lesson.exercises.feedback import correct
from deeplab_lesson.exercises.progress import Progress
from deeplab_lesson.exercises.registry import EXERCISES, find

TAG = "exercise:"


def stub_name(cell: NotebookNode) -> str | None:
    """The exercise whose stub a cell holds, from its tag."""
    tags = [tag for tag in cell.metadata.get("tags", []) if tag.startswith(TAG)]
    return tags[0].removeprefix(TAG) if tags and cell.cell_type == "code" else None


def calls(cell: NotebookNode) -> list[ast.Call]:
    """The calls of plain names in a code cell; none in a cell with magics, which is not Python."""
    try:
        tree = ast.parse(cell.source if cell.cell_type == "code" else "")
    except SyntaxError:
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]


def checked_name(cell: NotebookNode) -> str | None:
    """The exercise that a cell checks."""
    for call in calls(cell):
        if call.func.id == "check" and call.args and isinstance(call.args[0], ast.Constant):
            return str(call.args[0].value)
    return None


def shows_progress(cell: NotebookNode) -> bool:
    return any(call.func.id == "progress" for call in calls(cell))


def solve_notebook(notebook: NotebookNode) -> NotebookNode:
    """Return a copy with references for stubs, and with the outputs that its checks must have then.

    Raises:
        ValueError: a tag names an exercise that there is not.
    """
    solved = copy.deepcopy(notebook)
    outcomes: dict[str, str] = {}
    for cell in solved.cells:
        if name := stub_name(cell):
            cell.source = find(name).source
        elif name := checked_name(cell):
            outcomes[name] = "correct"
            _expect(cell, correct(find(name)))
        elif shows_progress(cell):
            _expect(cell, Progress(dict(outcomes)))
    return solved


def names_of(source: str) -> tuple[set[str], set[str]] | None:
    """The names that a cell binds, and those that it reads from other cells; None for magics, which are not Python."""
    try:
        table = symtable.symtable(source, "cell", "exec")
    except SyntaxError:
        return None
    bound: set[str] = set()
    read: set[str] = set()
    scopes = [table]
    while scopes:
        scope = scopes.pop()
        scopes += scope.get_children()
        for symbol in scope.get_symbols():
            if scope is table and (symbol.is_assigned() or symbol.is_imported()):
                bound.add(symbol.get_name())
            if symbol.is_referenced() and (scope is table or symbol.is_global()):
                read.add(symbol.get_name())
    return bound, read


def only_exercises(notebook: NotebookNode) -> NotebookNode:
    """Return a copy with the cells of exercises, those that bind a name that they read, and so on."""
    kept: list[NotebookNode] = []
    wanted: set[str] = set()
    for cell in reversed([cell for cell in notebook.cells if cell.cell_type == "code"]):
        names = names_of(cell.source)
        bound, read = names or (set(), set())
        needed = names is None or bool(bound & wanted)  # magics set up
        if needed or stub_name(cell) or checked_name(cell) or shows_progress(cell):
            kept.insert(0, cell)
            wanted |= read
    return copy.deepcopy(NotebookNode({**notebook, "cells": kept}))


def _expect(cell: NotebookNode, shown: object) -> None:
    """Store what the cell's last value must look like; what the cell prints before stays."""
    for output in cell.outputs:
        if output.output_type == "execute_result":
            output.data = NotebookNode({"text/plain": repr(shown), "text/html": shown._repr_html_()})


def problems(notebook: NotebookNode) -> Iterator[str]:
    """What is not in order about the exercises of a chapter, with the cell."""
    stubs: list[str] = []
    checked: list[str] = []
    for place, cell in enumerate(notebook.cells):
        where = f"cell {place} ({cell.get('id', 'no id')})"
        name = stub_name(cell) or checked_name(cell)
        if name is None:
            continue
        try:
            exercise = find(name)
        except ValueError as error:
            yield f"{where}: {error}"
            continue
        if stub_name(cell):
            stubs.append(name)
            if cell.source.rstrip() != exercise.stub:
                yield f"{where}: differs from the stub of {name}, which is\n{exercise.stub}"
            continue
        checked.append(name)
        if name not in stubs:
            yield f"{where}: checks {name}, and no cell before it has the tag {TAG}{name}"
        arguments = [
            ast.unparse(call.args[1]) for call in calls(cell) if call.func.id == "check" and len(call.args) > 1
        ]
        if arguments != [exercise.function_name]:
            yield f"{where}: must check one function, {exercise.function_name}, by its name"
        if [output.output_type for output in cell.outputs] != ["execute_result"]:
            yield f"{where}: must end with the check, and its output must be stored: make notebooks"
    for name in stubs:
        if name not in checked:
            yield f"the stub of {name} is never checked: add a cell check({name!r}, {EXERCISES[name].function_name})"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("paths", nargs="+", type=Path, help="the folder to write into (without --check), the chapters")
    options = parser.parse_args(arguments)
    files = options.paths if options.check else options.paths[1:]
    chapters = {file: nbformat.read(file, as_version=4) for file in files}
    found = [f"{file}: {problem}" for file, chapter in chapters.items() for problem in problems(chapter)]
    if found:
        print("\n".join(found), file=sys.stderr)
        return 1
    with_exercises = {file: chapter for file, chapter in chapters.items() if any(map(stub_name, chapter.cells))}
    if options.check:
        print(f"{len(with_exercises)} of {len(files)} chapters have exercises, and all are in order")
        return 0
    folder = options.paths[0]
    if folder.suffix == ".ipynb":
        parser.error(f"{folder} is a chapter: the first path is the folder to write into, such as _build/solved")
    for old in folder.glob("*.ipynb"):
        old.unlink()
    for file, chapter in with_exercises.items():
        copy_neighbors(file.parent, folder)
        nbformat.write(only_exercises(solve_notebook(chapter)), folder / file.name)
    print(f"{folder}: {len(with_exercises)} solved chapters")
    return 0


def copy_neighbors(source: Path, folder: Path) -> None:
    """A chapter may read files beside it, such as results/*.json: the copy finds them at the same place."""
    others = shutil.ignore_patterns("*.ipynb", "_*", ".*", "*.md")
    shutil.copytree(source, folder, ignore=others, dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main())
