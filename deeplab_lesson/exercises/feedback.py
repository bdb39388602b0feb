"""What a chapter calls: `check` an answer, `hint`, `solution`. Each shows itself, as text and as a small HTML card."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deeplab_lesson.exercises.cards import collapsed, outcome_card, paragraph, source_code
from deeplab_lesson.exercises.checking import find_problem
from deeplab_lesson.exercises.exercise import Exercise, is_untouched
from deeplab_lesson.exercises.progress import record
from deeplab_lesson.exercises.registry import find


@dataclass(frozen=True, repr=False)
class Feedback:
    """The outcome of a check.

    Attributes:
        name: of the exercise.
        outcome: "correct", "not attempted" or "wrong".
        message: what to do, or the property that failed; empty for a correct answer. Fixed text, but for "wrong",
            where it holds the random input that shows the mistake.
    """

    name: str
    outcome: str
    message: str = ""

    def __repr__(self) -> str:
        return f"[{self.outcome}] {self.name}{f': {self.message}' if self.message else ''}"

    def _repr_html_(self) -> str:
        return outcome_card(self.outcome, self.name, self.message)


def check(name: str, function: Callable[..., Any], *, seed: int | None = None) -> Feedback:
    """Try a reader's function on random inputs, new ones in each call.

    Nothing that the function does is an error here: it may raise, print, return anything, change its input, call
    exit or loop without end; 10 seconds are its limit (`time_limit` says what cannot be limited).

    Args:
        name: of the exercise, such as "atrous.effective_kernel".
        function: the reader's.
        seed: draws the same inputs again.

    Raises:
        ValueError: no exercise has this name; the text offers the nearest.
    """
    exercise = find(name)
    if is_untouched(function):
        feedback = not_attempted(exercise)
    else:
        problem = find_problem(exercise, function, seed=seed)
        feedback = correct(exercise) if problem is None else Feedback(name, "wrong", problem)
    record(name, feedback.outcome)
    return feedback


def correct(exercise: Exercise) -> Feedback:
    """What `check` says to a right answer."""
    return Feedback(exercise.name, "correct")


def not_attempted(exercise: Exercise) -> Feedback:
    """What `check` says to an untouched stub."""
    return Feedback(
        exercise.name,
        "not attempted",
        f"write the body of {exercise.function_name}, run its cell, then this one. "
        f'hint("{exercise.name}") is a beginning.',
    )


@dataclass(frozen=True, repr=False)
class Hint:
    """The hints of one exercise. As text, one of them; as HTML, each behind a click."""

    exercise: Exercise
    number: int

    def __repr__(self) -> str:
        hints = self.exercise.hints
        more = f'\nnext: hint("{self.exercise.name}", {self.number + 1})' if self.number < len(hints) else ""
        return f"hint {self.number} of {len(hints)}: {hints[self.number - 1]}{more}"

    def _repr_html_(self) -> str:
        count = len(self.exercise.hints)
        return collapsed(
            [(f"Hint {place} of {count}", paragraph(text)) for place, text in enumerate(self.exercise.hints, 1)]
        )


def hint(name: str, number: int = 1) -> Hint:
    """Help with an exercise. In a notebook all its hints open on a click; as text, `number` counts from 1.

    Raises:
        ValueError: no exercise has this name, or it has fewer hints.
    """
    exercise = find(name)
    if number not in range(1, len(exercise.hints) + 1):
        raise ValueError(f"hint {number!r} of {name}: allowed are 1 to {len(exercise.hints)}")
    return Hint(exercise, number)


@dataclass(frozen=True, repr=False)
class Solution:
    """The reference solution. A notebook shows it behind a click; `print(solution(...).source)` shows it at once."""

    exercise: Exercise

    @property
    def source(self) -> str:
        return self.exercise.source

    def __repr__(self) -> str:
        return f'the solution is shown by print(solution("{self.exercise.name}").source)'

    def _repr_html_(self) -> str:
        return collapsed([(f"Solution of {self.exercise.name}", source_code(self.source))])


def solution(name: str) -> Solution:
    """The solution of an exercise, from the package: the same function that the tests check.

    Raises:
        ValueError: no exercise has this name.
    """
    return Solution(find(name))
