"""Two lists for the API page: the settings of a training with their defaults, and the commands."""

import ast
import importlib
import inspect
import textwrap

from page_api import plain


def settings_markdown(dotted: str) -> str:
    """The fields of a dataclass, each with its default and with the text that stands below it in the source.

    Raises:
        ValueError: a class without such texts.
    """
    module, _, name = dotted.rpartition(".")
    source = textwrap.dedent(inspect.getsource(getattr(importlib.import_module(module), name)))
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    items = []
    for field, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            text = " ".join(after.value.value.split()) if told else ""  # type: ignore[union-attr,attr-defined]
            default = f" = {ast.unparse(field.value)}" if field.value else ""
            kind = f"`{ast.unparse(field.annotation)}`. {plain(text)}".strip()
            items.append(f"`{ast.unparse(field.target)}{default}`\n: {kind}")
    if not items:
        raise ValueError(f"{dotted} has no fields: give a dataclass")
    return "\n\n".join(items)


def commands_markdown() -> str:
    """The commands of deeplab-lesson, each with the first line of its docstring."""
    from deeplab_lesson.cli import COMMANDS
    from deeplab_lesson.commands.train import train_command

    rows = {"train": train_command, **COMMANDS}
    return "\n\n".join(
        f"`deeplab-lesson {name}`\n: {plain(inspect.cleandoc(function.__doc__ or '').splitlines()[0])}"
        for name, function in rows.items()
    )
