"""The API page: signatures and docstrings as they stand in the source, written as Markdown.

Sphinx's autodoc reads docstrings as reStructuredText; ours are Markdown but for their sections. And its pages are
heavy: every type of every argument is an element, and lists stand where none may (`dl` in `dt`).
"""

import ast
import html
import importlib
import inspect
import re
import textwrap
from collections.abc import Mapping
from types import ModuleType
from typing import Any

MORE = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Warns|Shapes)\b[^\n]*:\n|>>> ")  # what opens on a click
DETAILS = '<details class="api-more"><summary>{}</summary><pre>{}</pre></details>'
PACKAGE = "deeplab_lesson"


def public_names(module: ModuleType) -> list[str]:
    """What `__all__` lists, or else the functions and classes that the module defines and does not hide."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("__")]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]


def module_markdown(name: str, uses: Mapping[int, frozenset[str]], shown: dict[int, str]) -> str:
    """Every public name of a module. `uses`: names by chapter; `shown`: what stands on the page already, by id."""
    module = importlib.import_module(name)
    parts = []
    for each in public_names(module):
        value = getattr(module, each)
        if inspect.ismodule(value):
            continue  # it has a heading of its own
        if id(value) in shown and callable(value):
            parts.append(f"`{name}.{each}`\n: The same as `{shown[id(value)]}`, above.")
            continue
        shown[id(value)] = f"{name}.{each}"
        parts.append(entry(name, each, value, chapters_that_use(value, each, name, uses)))
    return "\n\n".join(parts)


def chapters_that_use(value: Any, name: str, module: str, uses: Mapping[int, frozenset[str]]) -> list[int]:
    """The chapters that import it from here, from where it is defined or from a module between the two."""
    inside = module.removeprefix(PACKAGE).lstrip(".")
    places = {inside, getattr(value, "__module__", module).removeprefix(PACKAGE).lstrip(".")}
    places |= {place.rpartition(".")[0] for place in places}
    wanted = {f"{place}.{name}".lstrip(".") for place in places}
    return [number for number, names in uses.items() if names & wanted]


def entry(module: str, name: str, value: Any, numbers: list[int]) -> str:
    """One entry of a definition list: the call, what it does, its methods, and all else behind a click."""
    full = f"{module}.{name}"
    call = f" `{signature(value)}`" if callable(value) and signature(value) else ""
    if callable(value):
        prose, more = docstring_parts(value)
    else:
        prose, more = [constant(value)], []
    parts = [*prose, "\n".join(methods(value)) if inspect.isclass(value) else ""]
    if numbers:
        parts.append("In " + ", ".join(f"{{chapter}}`{number}`" for number in numbers) + ".")
    if more:
        heads = dict.fromkeys((MORE.match(block) or [""])[1] or "Example" for block in more)  # type: ignore[index]
        shown = html.escape("\n\n".join(more)).replace("\n", "<br>")  # an empty line would end the HTML
        parts.append(DETAILS.format(", ".join(heads), shown))
    text = "\n\n".join(part for part in parts if part) or "(no text)"
    return f'<span id="{full}"></span>`{full}`{call}\n: ' + textwrap.indent(text, "  ").lstrip()


def constant(value: Any) -> str:
    text = repr(value)
    if isinstance(value, int | str | tuple) and len(text) < 100:
        return f"`{text}`"
    return f"A {type(value).__name__}" + (f" with {len(value)} entries." if hasattr(value, "__len__") else ".")


def methods(value: type) -> list[str]:
    """The methods and properties of a class that have a docstring, each with its first line."""
    found = []
    for name, member in vars(value).items():
        inner = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        known = isinstance(inner, property) or inspect.isfunction(inner)
        if known and not name.startswith("_") and inner.__doc__:
            first = " ".join(inspect.cleandoc(inner.__doc__).split("\n\n")[0].split())
            found.append(f"- `{name}{signature(inner)}`: {plain(first)}")
    return found


def signature(value: Any) -> str:
    """Arguments and result as the source spells them; of a class those of __init__, of a dataclass its fields."""
    if isinstance(value, property):
        return ""
    node = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    if isinstance(node, ast.ClassDef):
        inits = {child.name: child for child in node.body if isinstance(child, ast.FunctionDef)}
        if "__init__" not in inits:
            fields = [ast.unparse(child) for child in node.body if isinstance(child, ast.AnnAssign)]
            return f"({', '.join(field for field in fields if 'ClassVar' not in field)})" if fields else ""
        node = inits["__init__"]
    assert isinstance(node, ast.FunctionDef)
    arguments = re.sub(r"^(self|cls)(, )?", "", ast.unparse(node.args))
    result = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    return re.sub(r"(-> |: )'([\w.\[\], ]+)'", r"\1\2", f"({arguments}){result}")  # a class that names itself


def docstring_parts(value: Any) -> tuple[list[str], list[str]]:
    """A docstring's prose as Markdown, and its sections and examples as they stand."""
    prose: list[str] = []
    more: list[str] = []
    for block in re.split(r"\n *\n", inspect.cleandoc(value.__doc__ or "")):
        if MORE.match(block):
            more.append(block)
        elif block.startswith("    ") and more:
            more[-1] += "\n\n" + block
        elif block.startswith("    "):
            prose.append("```text\n" + textwrap.dedent(block) + "\n```")
        elif block.startswith("- "):
            prose.append(plain(block))
        elif block:
            prose.append(plain(" ".join(block.split())))
    return prose, more


def plain(text: str) -> str:
    """Keep `code`, escape what Markdown would read as something else, and link arXiv numbers.

    Options such as --crf become code: two hyphens in prose are drawn as a dash.
    """
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [
        re.sub(r"(?<![\w`])(--[a-z][\w-]*)", r"`\1`", re.sub(r"([$<|]|\*(?!\w[^*]*\w\*)(?<!\w\*))", r"\\\1", part))
        for part in parts[::2]
    ]
    return re.sub(r"\barXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", "".join(parts))
