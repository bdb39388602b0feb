"""The windows of one picture size from which a model's logits are those of the whole picture."""

import functools
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from fractions import Fraction

from torch import nn

from deeplab_lesson.inference.part_of_whole import PartOfWhole
from deeplab_lesson.inference.window_plan import (
    Reads,
    Window,
    WindowTooSmall,
    exact_windows,
    smallest_exact_window,
)
from deeplab_lesson.receptive_field.closed_form import read_image
from deeplab_lesson.receptive_field.reading import Span
from deeplab_lesson.tracing import Trace, meta_copy, trace

AVERAGE = "or give an overlap, so that windows are averaged (not equal to the whole picture)"


class ExactPlan:
    """Windows and the pixels taken from each, for one model and one size of pictures.

    The model is traced at that size, and its graph is walked from a pixel of the logits back to all that it reads.

    Raises:
        ValueError: the model sees the whole image, its field does not fit into the window, its logits have another size
            than the picture, or an operation whose reading is not known.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int], window: tuple[int, int]) -> None:
        self.whole = PartOfWhole(model, size)
        traced = trace(meta_copy(model).float(), size)
        reads = [_reads(traced, axis) for axis in (-2, -1)]
        if any(math.isinf(reads[i](0, 0)[1]) for i in (0, 1) if window[i] < size[i]):
            raise ValueError(
                "the model looks at the whole image (image pooling, or another mean over it): no window gives the "
                f"logits of the whole picture; leave the window out, {AVERAGE}"
            )
        step = self.whole.step
        try:
            self.rows, self.columns = (exact_windows(size[i], window[i], step, reads[i]) for i in (0, 1))
        except WindowTooSmall:
            smallest = [
                size[i] if window[i] >= size[i] else smallest_exact_window(size[i], step, reads[i]) for i in (0, 1)
            ]
            raise ValueError(
                f"window {window[0]}x{window[1]} (height x width) is too small for the model's receptive field: for a "
                f"picture of {size[0]}x{size[1]} exact windows begin at {smallest[0]}x{smallest[1]}; take a larger "
                f"one, {AVERAGE}"
            ) from None

    def __iter__(self) -> Iterator[tuple[Window, Window]]:
        return ((row, column) for row in self.rows for column in self.columns)

    def running(self, row: Window, column: Window) -> AbstractContextManager[None]:
        """Within it the model runs once, on this window."""
        return self.whole.window(row.start, column.start, row.stop - row.start, column.stop - column.start)


def _reads(traced: Trace, axis: int) -> Reads:
    """Which pixels does a run of output pixels read? Positions outside the picture are padding."""

    @functools.cache
    def reads(first: int, last: int) -> tuple[float, float]:
        span = read_image(traced, traced.output, axis, Span(first, last, Fraction(1)), image_level=True)
        return span.first, span.last

    return reads
