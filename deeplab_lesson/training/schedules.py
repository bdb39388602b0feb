"""Schedules of the learning rate: pure functions from a step to a factor, so that a resumed training just goes on.

Steps are updates of the weights ("iterations" in the papers), never epochs, and are counted from 0. Every schedule can
begin with a linear rise, its warm-up, by which it is multiplied.
"""

import math
from collections.abc import Callable, Mapping

Schedule = Callable[[int], float]


def step_schedule(every: int = 2000, factor: float = 0.1, warmup_steps: int = 0) -> Schedule:
    """Return the factor of the learning rate at a step: `factor` for each time that `every` steps have passed.

    Args:
        every: iterations, not epochs: v1's whole training has 6000 of them, about 11 epochs.

    Raises:
        ValueError: every below 1, a factor outside of (0, 1], negative warm-up steps.

    Source: v1 section 5 (arXiv 1412.7062), v2 section 4.1.1 (arXiv 1606.00915).

    >>> schedule = step_schedule()
    >>> [round(schedule(step), 3) for step in (0, 1999, 2000, 4000)]
    [1.0, 1.0, 0.1, 0.01]
    """
    if every < 1 or not 0 < factor <= 1:
        raise ValueError(
            f"every={every}, factor={factor}: allowed are whole numbers of steps from 1, and a factor above 0 and at "
            "most 1"
        )
    return _with_warmup(lambda step: float(factor ** (step // every)), warmup_steps)


def poly_schedule(total_steps: int, power: float = 0.9, warmup_steps: int = 0) -> Schedule:
    """Return the factor of the learning rate at a step: (1 - step / total_steps) ** power.

    Args:
        power: 0.9 in v2, v3 and v3+.
        warmup_steps: a linear rise in front, for training from random weights.

    Raises:
        ValueError: no steps, or not fewer warm-up steps than steps.

    Source: v2 section 4.1.1 (arXiv 1606.00915), after ParseNet.

    >>> schedule = poly_schedule(1000)
    >>> [round(schedule(step), 3) for step in (0, 500, 900, 1000)]
    [1.0, 0.536, 0.126, 0.0]
    """
    _check_total(total_steps, warmup_steps)
    return _with_warmup(lambda step: float(max(0.0, 1 - step / total_steps) ** power), warmup_steps)


def cosine_schedule(total_steps: int, warmup_steps: int = 0) -> Schedule:
    """Return the factor of the learning rate at a step: half a wave of the cosine, from 1 to 0.

    Raises:
        ValueError: no steps, or not fewer warm-up steps than steps.

    Source: Loshchilov and Hutter 2016 (arXiv 1608.03983), equation 5 without restarts.

    >>> schedule = cosine_schedule(1000)
    >>> [round(schedule(step), 3) for step in (0, 250, 500, 1000)]
    [1.0, 0.854, 0.5, 0.0]
    """
    _check_total(total_steps, warmup_steps)
    return _with_warmup(lambda step: (1 + math.cos(math.pi * min(1.0, step / total_steps))) / 2, warmup_steps)


SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "poly": poly_schedule,
    "step": step_schedule,
    "cosine": cosine_schedule,
}


def _with_warmup(schedule: Schedule, warmup_steps: int) -> Schedule:
    """Multiply by (step + 1) / warmup_steps until that is 1."""
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps={warmup_steps}: allowed are whole numbers from 0 (no warm-up)")
    if warmup_steps == 0:
        return schedule
    return lambda step: min(1.0, (step + 1) / warmup_steps) * schedule(step)


def _check_total(total_steps: int, warmup_steps: int) -> None:
    if total_steps < 1 or not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"total_steps={total_steps}, warmup_steps={warmup_steps}: allowed are at least one step and "
            "fewer warm-up steps than steps"
        )
