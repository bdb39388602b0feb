"""Where the windows lie along one side of a picture, and which pixels are taken from each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from deeplab_lesson.models.base import SMALLEST_IMAGE

Reads = Callable[[int, int], tuple[float, float]]  # of output pixels first..last, the first and the last pixel read


@dataclass(frozen=True)
class Window:
    """The model sees the pixels start..stop - 1, and its answer is taken for first..end - 1."""

    start: int
    stop: int
    first: int
    end: int


def check_window(window: object, overlap: object = None) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Return both as (height, width).

    Raises:
        ValueError: no two whole numbers, a window below 33 pixels, or an overlap that leaves no step.
    """
    size = _pair(window)
    if size is None or min(size) < SMALLEST_IMAGE:
        raise ValueError(
            f"window={window!r}: allowed are a height and a width of at least {SMALLEST_IMAGE} pixels, such as "
            "(513, 513)"
        )
    if overlap is None:
        return size, None
    shared = _pair(overlap)
    if shared is None or min(shared) < 0 or any(a >= b for a, b in zip(shared, size, strict=True)):
        raise ValueError(
            f"overlap={overlap!r} of windows of {size[0]}x{size[1]} (height x width): allowed are a height and a width "
            f"from 0 to {size[0] - 1} and {size[1] - 1}, such as {(size[0] // 2, size[1] // 2)}"
        )
    return size, shared


def even_windows(length: int, window: int, overlap: int) -> list[Window]:
    """Windows that share `overlap` pixels with the next; the last one ends with the picture and may share more."""
    if window >= length:
        return [Window(0, length, 0, length)]
    starts = [*range(0, length - window, window - overlap), length - window]
    return [Window(start, start + window, start, start + window) for start in starts]


def exact_windows(length: int, window: int, step: int, reads: Reads) -> list[Window]:
    """Windows from which pixels can be taken that read nothing beyond the window's edges within the picture.

    At the picture's own border a window ends as the picture does, and the model pads both alike. A window begins at a
    multiple of `step`, so that strided layers read the same positions as in the whole picture.

    Raises:
        WindowTooSmall: says from which size on each window adds `step` pixels or more.
    """
    if window >= length:
        return [Window(0, length, 0, length)]
    windows: list[Window] = []
    first = 0
    while first < length:
        seen = reads(first, first)[0]
        start = min(max(0, math.floor(seen / step)) * step, (length - SMALLEST_IMAGE) // step * step)
        stop = min(length, start + window)
        enough = min(first + step, length)  # each window must at least bring us here
        needed = min(length, int(reads(first, enough - 1)[1]) + 1)
        if needed > stop:
            raise WindowTooSmall(needed - start)
        end = length if stop == length else _last_safe(enough, stop, reads)
        windows.append(Window(start, stop, first, end))
        first = end
    return windows


class WindowTooSmall(ValueError):
    """No plan with this window; `smallest` is a size that the place where it failed would take."""

    def __init__(self, smallest: int) -> None:
        super().__init__(f"the window must have at least {smallest} pixels")
        self.smallest = smallest


def smallest_exact_window(length: int, step: int, reads: Reads) -> int:
    """The smallest window for which `exact_windows` finds a plan; `length` at most."""
    window = SMALLEST_IMAGE
    while True:
        try:
            exact_windows(length, window, step, reads)
        except WindowTooSmall as refused:
            window = refused.smallest
        else:
            return min(window, length)


def _last_safe(end: int, stop: int, reads: Reads) -> int:
    """About the largest end, from one that is safe, whose last pixel reads none behind `stop`."""
    larger = stop
    while larger > end:
        too_far = int(reads(larger - 1, larger - 1)[1]) + 1 - stop
        if too_far <= 0:
            return larger
        larger -= too_far
    return end


def _pair(value: object) -> tuple[int, int] | None:
    """Two whole numbers, or None."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(part) is int for part in value):
        return value[0], value[1]
    return None
