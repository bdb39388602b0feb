"""Reads what a function returned, and says in words what is wrong with it."""

import copy
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deeplab_lesson.exercises.exercise import WrongAnswer


def whole_number(answer: Any) -> int:
    """The answer as int. Takes Python's, NumPy's and tensors of one; a float is not a count of pixels."""
    if isinstance(answer, Tensor) and answer.numel() == 1 and not answer.is_floating_point():
        answer = answer.item()
    if isinstance(answer, bool) or not isinstance(answer, int | np.integer):
        more = ": // divides without a rest" if isinstance(answer, float) else ""
        raise WrongAnswer(f"you return {_kind(answer)} where a whole number (int) is due{more}")
    return int(answer)


def real_number(answer: Any) -> float:
    """The answer as float. Takes Python's, NumPy's and tensors of one."""
    if isinstance(answer, Tensor) and answer.numel() == 1:
        answer = answer.item()
    if isinstance(answer, bool) or not isinstance(answer, int | float | np.integer | np.floating):
        raise WrongAnswer(f"you return {_kind(answer)} where one number is due")
    return float(answer)


def whole_numbers(answer: Any, count: int | None = None) -> list[int]:
    """The answer as a list of ints. Takes lists, tuples and 1-D tensors.

    Args:
        count: how many there must be; None takes any number.
    """
    if isinstance(answer, Tensor | np.ndarray) and answer.ndim == 1:
        answer = answer.tolist()
    if not isinstance(answer, list | tuple):
        raise WrongAnswer(f"you return {_kind(answer)} where a list of whole numbers is due")
    if count is not None and len(answer) != count:
        raise WrongAnswer(f"you return {len(answer)} numbers where {count} are due")
    return [whole_number(number) for number in answer]


def same_tensor(answer: Any, expected: Tensor) -> None:
    """Compare shape and values, whatever the floating type."""
    if not isinstance(answer, Tensor):
        raise WrongAnswer(f"you return {_kind(answer)} where a torch.Tensor is due")
    if answer.shape != expected.shape:
        raise WrongAnswer(f"you return the shape {list(answer.shape)}; it must be {list(expected.shape)}")
    seen = answer.detach().double()
    if seen.isnan().any():
        raise WrongAnswer("you return nan, which is no number: is there 0 / 0, or memory from torch.empty?")
    different = (seen - expected).abs() > 1e-4 * (1 + expected.abs())
    if different.any():
        position = different.nonzero()[0].tolist()
        place = position[0] if len(position) == 1 else tuple(position)
        ours, theirs = expected[tuple(position)].item(), seen[tuple(position)].item()
        raise WrongAnswer(f"you return {theirs:g} at position {place}, where {ours:g} is due")


def same_answer(first: Any, second: Any) -> bool:
    """Whether two answers, right or wrong, are equal: of one kind, one shape and close values."""
    try:
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            return first.shape == second.shape and torch.allclose(first.double(), second.double(), equal_nan=True)
        return bool(_plain(first) == _plain(second))
    except Exception:  # an answer of another kind
        return False


def changed(before: Any, after: Any) -> bool:
    """Whether a function changed an argument in place."""
    if isinstance(before, Tensor):
        return not same_answer(before, after)
    return isinstance(before, list) and before != after


def copied(argument: Any) -> Any:
    """A copy for one call of a reader's function."""
    return copy.deepcopy(argument)


def described(arguments: Mapping[str, Any]) -> str:
    """The arguments of a call in one line."""
    return ", ".join(f"{name}={_shown(value)}" for name, value in arguments.items())


def size(value: Any) -> float:
    """How much there is to read in an argument. The failing input that is shown is the smallest."""
    if isinstance(value, list | tuple):
        return sum(1 + size(part) for part in value)
    if isinstance(value, Tensor):
        return 3 * value.numel()
    if isinstance(value, nn.Module):
        return sum(parameter.numel() for parameter in value.parameters())
    return abs(value) if isinstance(value, int | float) else 1


def _plain(answer: Any) -> Any:
    """Numbers and lists of numbers only: a type of the reader's own may do anything when it is compared."""
    if isinstance(answer, Tensor | np.ndarray | np.generic):
        return answer.tolist()
    if isinstance(answer, list | tuple):
        return [_plain(part) for part in answer]
    if type(answer) not in (int, float, bool):
        raise TypeError
    return answer


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(value.int().tolist())
    if isinstance(value, nn.Module):
        text = re.sub(r"\s+", " ", repr(value))
        return re.sub(r"\(\d+\): |, bias=False|, padding_mode=\w+", "", text).replace("( ", "(").replace(" )", ")")
    return repr(value)


def _kind(answer: Any) -> str:
    """What an answer is, without calling anything of it."""
    if answer is None:
        return "None (is a `return` missing?)"
    if isinstance(answer, Tensor):
        return f"a tensor of {str(answer.dtype).removeprefix('torch.')}, shape {list(answer.shape)},"
    if type(answer) in (int, float, bool):
        return f"{answer}, a {type(answer).__name__},"
    return f"a {type(answer).__name__}"
