"""What an exercise is made of. One function, the reference, is the source of its statement, stub and solution."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deeplab_lesson.exercises.draw import Draw

STUB_BODY = "raise NotImplementedError  # your code here"


class WrongAnswer(Exception):
    """Raised by a judge. Its text is the property that failed, as a sentence without capital and full stop."""


@dataclass(frozen=True)
class Misconception:
    """A wrong answer that readers give, and what to tell those who give it."""

    function: Callable[..., Any]
    explanation: str  # whole sentences


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        name: "chapter.function"; the second part is the name of the reference.
        reference: the solution that is shown. It uses builtins and `torch` only, so that it runs in any chapter, and
            its docstring is the statement.
        draw: makes the arguments of one call.
        judge: `judge(answer, *arguments)` raises `WrongAnswer` if the answer is wrong. It does not use the reference:
            a mistake in the reference must show.
        misconceptions: tried on what a wrong answer returned; the first that returns the same explains it.
        hints: from a nudge to almost the answer.
    """

    name: str
    reference: Callable[..., Any]
    draw: Callable[[Draw], tuple[Any, ...]]
    judge: Callable[..., None]
    misconceptions: tuple[Misconception, ...]
    hints: tuple[str, ...]

    @property
    def function_name(self) -> str:
        return self.reference.__name__

    @property
    def statement(self) -> str:
        """The first line of the reference's docstring."""
        return (inspect.getdoc(self.reference) or "").partition("\n")[0]

    @property
    def source(self) -> str:
        """The solution as it stands in the package."""
        return textwrap.dedent(inspect.getsource(self.reference)).rstrip()

    @property
    def stub(self) -> str:
        """What a chapter gives the reader: the reference's signature and docstring, and no body."""
        function = ast.parse(self.source).body[0]
        assert isinstance(function, ast.FunctionDef)
        head = self.source.splitlines()[: function.body[0].end_lineno]
        return "\n".join([*head, f"    {STUB_BODY}"])


@dataclass(frozen=True)
class Chapter:
    """The exercises of one chapter."""

    number: int
    title: str
    exercises: tuple[Exercise, ...]


def is_untouched(function: Callable[..., Any]) -> bool:
    """Tell whether a function has no body yet: only `raise NotImplementedError`, `...`, `pass` or `return`.

    Such bodies are compiled here and compared, because the source of a notebook's cell is not always to be had.
    """
    code = getattr(function, "__code__", None)
    if code is None or (code.co_code, code.co_names) not in _EMPTY_BODIES:
        return False
    constants = [value for value in code.co_consts if value not in (None, ..., function.__doc__)]
    return not constants or code.co_names == ("NotImplementedError",)  # whose text may be any


def _empty_bodies() -> set[tuple[bytes, tuple[str, ...]]]:
    bodies = (
        "raise NotImplementedError",
        "raise NotImplementedError()",
        'raise NotImplementedError("")',
        "...",
        "return",
    )
    found = set()
    for body in bodies:
        for docstring in ("", '"""What it does."""; '):
            names: dict[str, Any] = {}
            exec(f"def function(): {docstring}{body}", names)
            found.add((names["function"].__code__.co_code, names["function"].__code__.co_names))
    return found


_EMPTY_BODIES = _empty_bodies()
