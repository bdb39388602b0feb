"""What is refused before a module is run on an empty image, and what it says when it cannot be run at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from deeplab_lesson.layers.checks import check_size, check_whole, is_whole


@contextmanager
def one_image(module: nn.Module, input_size: Any, in_channels: Any, output: Any = None) -> Iterator[None]:
    """Refuse sizes that are none; within it, say of a module that fails on such an image that it does.

    Raises:
        ValueError: a size or channels that are no whole numbers; a module that does not take an image of this size and
            these channels, or has not this output.
    """
    check_size("input_size", input_size)
    if in_channels is not None:
        check_whole("in_channels", in_channels)
    try:
        yield
    except (RuntimeError, LookupError, AssertionError, AttributeError) as error:
        channels = "its first convolution's" if in_channels is None else in_channels
        wanted = "" if output is None else f", or has no output {output!r}"
        raise ValueError(
            f"{type(module).__name__} does not take an image of {input_size[0]}x{input_size[1]} (height x width) with "
            f"{channels} channels{wanted} ({type(error).__name__}: {_first_line(error)}): allowed are modules that map "
            "[1, in_channels, height, width] to maps; give a larger input_size or in_channels=..."
        ) from error


def check_position(position: Any, rows: int, columns: int) -> None:
    """Refuse what is no (row, column) of an output map.

    Raises:
        ValueError: as said.
    """
    if position is None:
        return
    pair = isinstance(position, tuple | list) and len(position) == 2 and all(is_whole(place) for place in position)
    if not pair or not (0 <= position[0] < rows and 0 <= position[1] < columns):
        raise ValueError(
            f"position={position!r}: allowed are two whole numbers (row, column) of the output, 0 to {rows - 1} and "
            f"0 to {columns - 1}"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:160]
