"""What a reader can set in an interactive figure: a number from a list, or one of a few choices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

MOST_CONTROLS = 2


@dataclass(frozen=True)
class Control:
    """One parameter of the drawing function, and the values that the static page has frames for."""

    name: str
    values: tuple[Any, ...]

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")

    @property
    def numeric(self) -> bool:
        """Numbers get a slider, all else a list of choices."""
        return all(_is_number(value) for value in self.values)

    @property
    def texts(self) -> list[str]:
        return [value_text(value) for value in self.values]

    @property
    def step(self) -> int | float:
        """How far a live slider moves: the largest step that reaches every value of the list.

        (1, 2, 4) gives 1, so that a kernel also draws 3; (3, 5) gives 2. With floats it is one unit of the last
        decimal that occurs, and a tenth at least.
        """
        if all(isinstance(value, int) for value in self.values):
            return math.gcd(*(value - self.values[0] for value in self.values))
        return float(10.0**-self.decimals)

    @property
    def decimals(self) -> int:
        return max(1, *(len(f"{value:.6f}".rstrip("0").partition(".")[2]) for value in self.values))


def value_text(value: Any) -> str:
    """A value in words for a label: 4, 0.5, nearest."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_controls(given: Mapping[str, Iterable[Any]]) -> tuple[Control, ...]:
    """Check the keyword arguments of `explore` that name parameters of the drawing function.

    Raises:
        TypeError: values that are not a list.
        ValueError: no control or more than two, fewer than two values, values twice, numbers not in ascending order.
    """
    if not 1 <= len(given) <= MOST_CONTROLS:
        named = ", ".join(given) or "none"
        raise ValueError(
            f"{len(given)} controls ({named}): allowed are one or two, as in explore(draw, rate=[1, 2, 4])"
        )
    return tuple(_read_control(name, values) for name, values in given.items())


def _read_control(name: str, given: Iterable[Any]) -> Control:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"{name}={given!r}: give a list of values, such as {name}=[1, 2, 4] or {name}=['a', 'b']")
    values = tuple(value.item() if hasattr(value, "item") else value for value in given)  # NumPy's numbers, tensors
    if len(values) < 2:
        raise ValueError(f"{name}={list(values)}: a control needs two values or more; with one, draw the figure itself")
    control = Control(name, values)
    if len(set(control.texts)) < len(values):
        raise ValueError(f"{name}={list(values)}: a value is there twice; give each once")
    if control.numeric:
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"{name}={list(values)}: allowed are finite numbers")
        if list(values) != sorted(values):
            raise ValueError(f"{name}={list(values)}: a slider goes up; give the numbers in ascending order")
    return control


def combinations(controls: tuple[Control, ...]) -> list[dict[str, Any]]:
    """Every setting of the controls, the last control changing fastest."""
    names = [control.name for control in controls]
    return [dict(zip(names, values, strict=True)) for values in product(*(control.values for control in controls))]


def setting_text(values: Mapping[str, Any]) -> str:
    """A setting as one would write it: rate=4, kernel=3."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in values.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
