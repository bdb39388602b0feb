"""Running a model on a part of a picture so that its resized maps are those of the whole picture.

How a map is enlarged depends on the size of the picture: one of 500 pixels has a map of 63 at output stride 8, and
its enlargement takes steps of 63 / 500, not of 1 / 8. A window has another size and would take other steps, and its
logits would be shifted against the whole picture's. So in a window every resizing takes the whole picture's steps.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from deeplab_lesson.tracing import meta_copy

LARGE = 768  # a multiple of every stride, also of pictures at 3/4 and 1/2 of their size: all maps are whole
CHANNELS = 4  # are resized at once: logits are a window's largest map, and there should be one copy of it

Size = tuple[int, int]


class PartOfWhole:
    """What a model does with pictures of one size, and with windows of them.

    Attributes:
        step: windows that begin at multiples of it have maps that are cut out of the whole picture's.

    Raises:
        ValueError: the model's logits have another size than the picture.
    """

    def __init__(self, model: nn.Module, size: Size) -> None:
        model = meta_copy(model).float().eval()
        whole, aligned = _Recorder(), _Recorder()
        output = whole.run(model, size)
        if output != size:
            raise ValueError(
                f"the model's logits are {output[0]}x{output[1]} for a picture of {size[0]}x{size[1]}: windows need "
                "logits of the picture's size; take a model that pads (a U-Net with padding='same')"
            )
        aligned.run(model, (LARGE, LARGE))
        self.size = size
        self.step = math.lcm(*(Fraction(LARGE, side).numerator for side in aligned.sides))
        self._maps = whole.maps
        self._strides = [[Fraction(LARGE, side[0]) for side in sizes] for sizes in aligned.maps]

    @contextmanager
    def window(self, top: int, left: int, height: int, width: int) -> Iterator[None]:
        """Run the model once on this window; `top` and `left` are multiples of `step`."""
        starts, at_end = (top, left), (top + height == self.size[0], left + width == self.size[1])
        with _WholeSteps(self._maps, self._strides, starts, at_end) as steps:
            yield
        if steps.done != len(self._maps):
            raise ValueError(
                f"the model resizes {len(self._maps)} maps of the picture and {steps.done} of the window: exact "
                "windows cannot be cut; give an overlap, so that the windows are averaged"
            )


class _Recorder(TorchFunctionMode):
    """Writes down the sizes of resized maps, and the sides of all maps."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[tuple[Size, Size]] = []
        self.sides: set[int] = set()

    def run(self, model: nn.Module, size: Size) -> Size:
        """Run the model, which is on the meta device, and return the size of its logits."""
        with torch.no_grad(), self:
            height, width = model(torch.empty(1, 3, *size, device="meta")).shape[2:]
        return height, width

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.ndim == 4:
            self.sides |= {side for side in result.shape[2:] if side > 1}
        if func is F.interpolate:
            features = args[0] if args else kwargs["input"]
            self.maps.append((tuple(features.shape[2:]), tuple(result.shape[2:])))
        return result


class _WholeSteps(TorchFunctionMode):
    """Lets F.interpolate take the steps of the whole picture."""

    def __init__(
        self,
        maps: Sequence[tuple[Size, Size]],
        strides: Sequence[Sequence[Fraction]],
        starts: Size,
        at_end: tuple[bool, bool],
    ) -> None:
        super().__init__()
        self.maps, self.strides, self.starts, self.at_end = maps, strides, starts, at_end
        self.done = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.interpolate and self.done < len(self.maps):
            return self._resize(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _resize(
        self, input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **options: Any
    ) -> Tensor:
        """What F.interpolate does, along one axis after the other."""
        whole, strides = self.maps[self.done], self.strides[self.done]
        self.done += 1
        if scale_factor is not None:  # its steps do not depend on the size
            return F.interpolate(input, None, scale_factor, mode, **options)
        if mode not in ("bilinear", "nearest") or options.get("align_corners"):
            raise ValueError(
                f"the model resizes with {mode}, align_corners={options.get('align_corners')}: exact windows know "
                "bilinear without align_corners, and nearest; give an overlap, so that the windows are averaged"
            )
        target = (size, size) if isinstance(size, int) else tuple(size)
        for axis in (0, 1):
            source = _Axis(whole[0][axis], self.starts[axis] / strides[0], input.shape[2 + axis])
            result = _Axis(whole[1][axis], self.starts[axis] / strides[1], target[axis])
            for cut in (source, result):
                cut.check(self.at_end[axis])
            input = _interpolate(input, axis + 2, source, result, mode)
        return input


@dataclass(frozen=True)
class _Axis:
    """Positions start..start + length - 1 of a map that has `whole` of them."""

    whole: int
    start: Fraction
    length: int

    def check(self, at_end: bool) -> None:
        """Refuse a map that is not cut out of the whole picture's."""
        if self.start.denominator != 1 or (at_end and self.start + self.length != self.whole):
            raise ValueError(
                f"a map of the window holds {self.length} positions from {float(self.start):g} on, and the picture's "
                f"{self.whole}: it is no part of it; give an overlap, so that the windows are averaged"
            )


def _interpolate(features: Tensor, dim: int, source: _Axis, result: _Axis, mode: str) -> Tensor:
    ratio = source.whole / result.whole
    positions = torch.arange(result.length, device=features.device, dtype=torch.float64) + int(result.start)
    if mode == "nearest":
        nearest = (positions * ratio).floor().long() - int(source.start)
        return features.index_select(dim, nearest.clamp(0, source.length - 1))
    centers = ((positions + 0.5) * ratio - 0.5).clamp(0, source.whole - 1)
    before = centers.floor()
    shares = (centers - before).to(features.dtype)
    low = (before.long() - int(source.start)).clamp(0, source.length - 1)
    high = (low + 1).clamp(max=source.length - 1)
    weights = shares.reshape([-1 if axis == dim else 1 for axis in range(features.ndim)])
    size = list(features.shape)
    size[dim] = result.length
    resized = features.new_empty(size)
    for begin in range(0, size[1], CHANNELS):
        part = features[:, begin : begin + CHANNELS]
        between = torch.lerp(part.index_select(dim, low), part.index_select(dim, high), weights)
        resized[:, begin : begin + CHANNELS] = between
    return resized
