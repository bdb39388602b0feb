"""Sliding windows: a picture larger than memory allows, seen in parts."""

import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deeplab_lesson.data.transforms import as_tensor, check_picture, normalize
from deeplab_lesson.inference.exact_plan import ExactPlan
from deeplab_lesson.inference.window_plan import Window, check_window, even_windows
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.receptive_field import receptive_field
from deeplab_lesson.tracing import meta_copy
from deeplab_lesson.training.evaluation import evaluating

Pair = tuple[int, int]
Prepare = Callable[[Tensor], Tensor]
Piece = tuple[slice, slice, Tensor]  # rows, columns, and the logits there, [N, C, rows, columns]


class SlidingWindow(SegmentationModel):
    """A model that sees large pictures through windows, and a picture that fits into one window as it is.

    Without an overlap it is exact: each pixel is taken from a window that holds all that the pixel's receptive field
    reaches, so that the logits equal those of the whole picture. That needs a finite field, and windows larger than it.

    With an overlap, windows lie evenly and the probabilities of all windows that hold a pixel are averaged. That is
    always possible, and not the same: near a window's edge the model sees padding where the picture goes on. A model
    with image pooling also sees the mean of the window in the place of the picture's mean, everywhere in the window;
    a warning says so.

    Wherever a model is taken, this is one: `evaluate`, `predict_multiscale`, `tune_crf`. These keep the logits of the
    whole picture; `predict_sliding_window` keeps labels alone.

    Args:
        model: put into eval mode by those that call it.
        window: (height, width) of what the model sees at once.
        overlap: (height, width) that a window shares with the next; None is exact.

    Raises:
        ValueError: a window below 33 pixels, or an overlap that leaves no step. At the first picture that is larger
            than the window: without an overlap as in `ExactPlan`, with one for logits that have not the window's size.
    """

    def __init__(self, model: SegmentationModel, window: Pair, overlap: Pair | None = None) -> None:
        super().__init__()
        self.window, self.overlap = check_window(window, overlap)
        self.model = model
        self.spec = model.spec
        self._plans: dict[Pair, ExactPlan] = {}
        self._warned = False

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        out = torch.empty(0)
        for rows, columns, logits in self.pieces(images):
            if not out.numel():
                out = logits.new_empty(*logits.shape[:2], *images.shape[2:])  # [N, C, H, W]
            out[:, :, rows, columns] = logits
            del logits
        return {"out": out}

    @torch.inference_mode()
    def label(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Do what `predict_sliding_window` does; plans made for one picture serve all of its size."""
        check_picture(image)
        device = next(self.model.parameters()).device
        labels = np.empty(image.shape[:2], dtype=np.uint8)  # [H, W]
        pixels = as_tensor(image).permute(2, 0, 1)[None]  # [1, 3, H, W]
        with evaluating(self.model):
            for rows, columns, logits in self.pieces(pixels, lambda part: normalize(part.to(device))):
                labels[rows, columns] = logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
                del logits  # before the next are computed
        return labels

    def pieces(self, images: Tensor, prepare: Prepare = lambda part: part) -> Iterator[Piece]:
        """Go through a picture; no piece is larger than a window's height times the picture's width.

        Args:
            images: [N, 3, H, W].
            prepare: turns what is cut out of them into what the model takes.

        Yields:
            Rows, columns, and logits [N, C, rows, columns]; with an overlap the logarithms of mean probabilities.
        """
        size = (images.shape[2], images.shape[3])
        if all(side <= limit for side, limit in zip(size, self.window, strict=True)):
            yield slice(None), slice(None), self.model(prepare(images))
        elif self.overlap is None:
            yield from self._exact(images, prepare)
        else:
            self._warn_once()
            yield from self._averaged(images, prepare, self.overlap)

    def _exact(self, images: Tensor, prepare: Prepare) -> Iterator[Piece]:
        size = (images.shape[2], images.shape[3])
        if size not in self._plans:
            with torch.inference_mode(False):
                self._plans[size] = ExactPlan(self.model, size, self.window)
        plan = self._plans[size]
        for row, column in plan:
            with plan.running(row, column):
                logits = self.model(prepare(_cut(images, row, column)))
            yield slice(row.first, row.end), slice(column.first, column.end), _taken(logits, row, column)
            del logits  # or two windows' would be there at once

    def _averaged(self, images: Tensor, prepare: Prepare, overlap: Pair) -> Iterator[Piece]:
        height, width = images.shape[2:]
        rows, columns = (
            even_windows(side, limit, shared)
            for side, limit, shared in zip((height, width), self.window, overlap, strict=True)
        )
        counts = [_windows_at(rows, height), _windows_at(columns, width)]
        carried: Tensor | None = None  # the sums where the windows above reach into these
        for row, end in zip(rows, [*(below.start for below in rows[1:]), height], strict=True):
            band: Tensor | None = None  # the sums of probabilities, [N, C, window height, W]
            for column in columns:
                probabilities = _probabilities(self.model(prepare(_cut(images, row, column))), row, column)
                if band is None:
                    band = probabilities.new_zeros(*probabilities.shape[:3], width)
                    if carried is not None:
                        band[:, :, : carried.shape[2]] = carried
                band[:, :, :, column.start : column.stop] += probabilities
                del probabilities
            assert band is not None
            done, carried = band[:, :, : end - row.start], band[:, :, end - row.start :].clone()
            done /= (counts[0][row.start : end, None] * counts[1]).to(done)  # in place: the band is what takes memory
            yield slice(row.start, end), slice(None), done.log_()
            del band, done

    def _warn_once(self) -> None:
        if self._warned:
            return
        self._warned = True
        with torch.inference_mode(False):
            try:
                size = receptive_field(meta_copy(self.model).float()).size
            except ValueError:  # an operation that its rules do not know
                return
        if math.inf in size:
            warnings.warn(
                f"{self.spec['name']} looks at the whole image, here at a window of {self.window[0]}x{self.window[1]} "
                "(height x width): labels differ from the whole picture's, and not only near the windows' edges; take "
                "windows as large as memory allows",
                stacklevel=2,
            )


@torch.inference_mode()
def predict_sliding_window(
    model: SegmentationModel, image: NDArray[np.uint8], window: Pair, overlap: Pair | None = None
) -> NDArray[np.uint8]:
    """Label one picture through windows, in the memory that one window takes.

    Beside what the model takes for one window there is the picture in 8 bits and, with an overlap, the probabilities of
    as many rows as a window has.

    Args:
        model: put into eval mode for the call, and back afterwards.
        image: uint8 [H, W, 3], RGB, not normalized.
        window, overlap: (height, width), as in `SlidingWindow`; no overlap is exact.

    Returns:
        Class ids, uint8 [H, W].

    Raises:
        TypeError, ValueError: as in `predict` and `SlidingWindow`.
    """
    return SlidingWindow(model, window, overlap).label(image)


def _cut(images: Tensor, row: Window, column: Window) -> Tensor:
    return images[:, :, row.start : row.stop, column.start : column.stop]


def _taken(logits: Tensor, row: Window, column: Window) -> Tensor:
    """What is taken from a window's logits."""
    top, left = row.start, column.start
    return logits[:, :, row.first - top : row.end - top, column.first - left : column.end - left]


def _windows_at(windows: list[Window], length: int) -> Tensor:
    """How many windows hold each position."""
    counts = torch.zeros(length)
    for window in windows:
        counts[window.start : window.stop] += 1
    return counts


def _probabilities(logits: Tensor, row: Window, column: Window) -> Tensor:
    size = (row.stop - row.start, column.stop - column.start)
    if logits.shape[2:] != size:
        raise ValueError(
            f"the model's logits are {logits.shape[2]}x{logits.shape[3]} for a window of {size[0]}x{size[1]}: windows "
            "need logits of the window's size; take a model that pads (a U-Net with padding='same')"
        )
    return logits.float().softmax(dim=1)
