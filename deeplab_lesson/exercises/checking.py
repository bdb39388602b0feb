"""Calls a reader's function on random inputs and finds the property that fails."""

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deeplab_lesson.exercises.draw import Draw
from deeplab_lesson.exercises.exercise import Exercise, Misconception, WrongAnswer
from deeplab_lesson.exercises.judging import changed, copied, described, same_answer, size
from deeplab_lesson.exercises.time_limit import SECONDS, OutOfTime, Printed, Stop, run_within

CALLS = 24  # a misconception that is right for three inputs in five is overlooked once in 200,000 checks
SHOWN_CHARACTERS = 300


@dataclass
class Call:
    """One call of the reader's function: what went in, what came back, what is wrong with it."""

    arguments: tuple[Any, ...]
    answer: Any = None
    returned: bool = False
    problem: str | None = None
    printed: str = ""


def find_problem(exercise: Exercise, function: Any, *, seed: int | None = None, seconds: float = SECONDS) -> str | None:
    """Return what is wrong with a function, for the smallest input that shows it, or None.

    Args:
        seed: repeats a draw; None draws anew.
        seconds: for all calls together.
    """
    if not callable(function):
        return f"give the function itself, without parentheses: you give the value {_cut(type(function).__name__)}"
    if problem := _signature_problem(exercise, function):
        return problem
    draw = Draw(seed)
    calls = [Call(exercise.draw(draw)) for _ in range(CALLS)]
    tried: list[Call] = []
    try:
        run_within(seconds, lambda printed: _run(exercise, function, calls, tried, printed))
    except OutOfTime as late:
        left = "" if late.stopped else "; it could not be stopped and still runs: restart the notebook's kernel"
        where = _input(exercise, tried[-1])
        return f"{where} your function does not return within {seconds:g} seconds: does a loop never end?{left}"
    wrong = [call for call in calls if call.problem]
    if not wrong:
        return None
    call = min(wrong, key=lambda call: size(call.arguments))
    parts = [f"{_input(exercise, call)} {call.problem}.", _explanation(exercise, calls)]
    if call.printed.strip():
        parts.append(f"It printed: {_cut(call.printed.strip())}")
    return " ".join(part for part in parts if part)


def _run(
    exercise: Exercise, function: Callable[..., Any], calls: list[Call], tried: list[Call], printed: Printed
) -> None:
    for call in calls:
        tried.append(call)
        given = tuple(copied(argument) for argument in call.arguments)
        begin = printed.tell()
        try:
            call.answer = function(*given)
            call.returned = True
            _judge(exercise, call, given)
        except Stop:
            raise
        except WrongAnswer as wrong:
            call.problem = str(wrong)
        except BaseException as error:  # SystemExit and what else a reader's function may raise
            call.problem = _what_was_raised(function, error)
        call.printed = printed.getvalue()[begin:]


def _judge(exercise: Exercise, call: Call, given: tuple[Any, ...]) -> None:
    for name, before, after in zip(_names(exercise), call.arguments, given, strict=True):
        if changed(before, after):
            raise WrongAnswer(f"your function changes its input {name}: work on a copy")
    try:
        exercise.judge(call.answer, *call.arguments)
    except (WrongAnswer, Stop):
        raise
    except Exception as error:  # an answer that is of the right type and cannot be used like one
        raise WrongAnswer(f"you return a {type(call.answer).__name__} that cannot be read") from error


def _signature_problem(exercise: Exercise, function: Callable[..., Any]) -> str | None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function in C may have none
        return None
    try:
        signature.bind(*_names(exercise))
    except TypeError:
        ours = inspect.signature(exercise.reference)
        takes, due = (", ".join(each.parameters) or "nothing" for each in (signature, ours))
        return f"your function takes {takes}; it is called with {due}: keep the first line of the stub"
    return None


def _explanation(exercise: Exercise, calls: list[Call]) -> str:
    """The first misconception that gives what the reader's function gave, on every input."""
    if not all(call.returned for call in calls):
        return ""
    for misconception in exercise.misconceptions:
        if all(_gives_the_same(misconception, call) for call in calls):
            return misconception.explanation
    return ""


def _gives_the_same(misconception: Misconception, call: Call) -> bool:
    try:
        return same_answer(call.answer, misconception.function(*call.arguments))
    except Exception:  # the wrong way does not work for every input
        return False


def _what_was_raised(function: Callable[..., Any], error: BaseException) -> str:
    try:
        text = _cut(str(error))
    except Exception:  # an exception of the reader's own
        text = ""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    where = f", in line {lines[-1]} of its cell" if lines else ""
    more = {
        "NotImplementedError": "; a part of it is still to be written",
        "SystemExit": "; return the answer, and do not leave Python",
        "RecursionError": "; it calls itself without end",
    }.get(type(error).__name__, "")
    return f"your function raises {type(error).__name__}{f': {text}' if text else ''}{where}{more}"


def _names(exercise: Exercise) -> list[str]:
    return list(inspect.signature(exercise.reference).parameters)


def _input(exercise: Exercise, call: Call) -> str:
    return f"for {described(dict(zip(_names(exercise), call.arguments, strict=True)))}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..."
