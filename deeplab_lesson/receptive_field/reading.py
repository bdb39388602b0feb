"""Which positions of its input does an operation read for a run of output positions? One rule an operation.

A rule works along one axis: -2 is the height, -1 the width. Positions outside a map are kept as they are: the
field is that of an endless image, and padding only moves it.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from deeplab_lesson.tracing import shape

aten = torch.ops.aten


@dataclass(frozen=True)
class Span:
    """Positions first..last of a map that are read, and the step of the reading when the output moves by one."""

    first: float  # whole numbers, or minus infinity
    last: float
    step: Fraction | None  # None where the output's position does not matter

    def hull(self, other: "Span") -> "Span":
        """Both; where their steps differ, as for sizes that strides do not divide, the smaller one."""
        steps = [step for step in (self.step, other.step) if step is not None]
        return Span(min(self.first, other.first), max(self.last, other.last), min(steps, default=None))


EVERYTHING = Span(-math.inf, math.inf, None)
Pair = tuple[int, ...]  # (height, width)
Rule = Callable[[fx.Node, fx.Node, int, Span], Span]


def read(node: fx.Node, source: fx.Node, axis: int, span: Span) -> tuple[Span, ...]:
    """The positions of `source` that `node` reads for its output positions `span`; none where last < first.

    Raises:
        ValueError: an operation without a rule.
    """
    rule = _RULES.get(node.target)
    if rule is not None:
        return (rule(node, source, axis, span),)
    if node.target is aten.native_group_norm.default:
        return span, EVERYTHING  # its own position, and the statistics of the map
    pointwise = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
    if not (pointwise or node.target in _PASS_THROUGH) or not _fits(node, source, axis):
        raise ValueError(
            f"receptive_field has no rule for {node.target} from {list(shape(source))} to {list(shape(node))}: it "
            "knows convolution, pooling, interpolation, cropping, padding, reductions, concatenation of channels and "
            "what works position by position; trace the module up to there"
        )
    return (_same(node, source, axis, span),)


def changes_field(node: fx.Node) -> bool:
    """True for the layers that a table of fields lists: neither position by position nor 1x1 at stride 1."""
    if node.target is aten.convolution.default:
        kernel, stride, _, _ = window(node)
        return max(kernel) > 1 or max(stride) > 1
    return node.target in _LISTED


def window(node: fx.Node) -> tuple[Pair, Pair, Pair, Pair]:
    """Kernel, stride, padding and rate of a convolution or of a pooling with a fixed window; empty for others."""
    if node.target is aten.convolution.default:
        weight = node.args[1]
        assert isinstance(weight, fx.Node)
        values = [shape(weight)[-2:], *node.args[3:6]]
    elif _LISTED.get(node.target) is _pooling:
        kernel, stride, padding, rate = (*node.args[1:5], *[None] * 3)[:4]
        if node.target is aten.avg_pool2d.default:
            rate = None  # its fifth argument is another one
        values = [kernel, stride or kernel, padding or 0, rate or 1]
    else:
        return (), (), (), ()
    kernel, stride, padding, rate = (_pair(value) for value in values)
    return kernel, stride, padding, rate


def _length(node: fx.Node, axis: int) -> int:
    sizes = shape(node)
    return sizes[axis] if len(sizes) >= 2 else 1


def _fits(node: fx.Node, source: fx.Node, axis: int) -> bool:
    return _length(source, axis) in (1, _length(node, axis))


def _same(node: fx.Node, source: fx.Node, axis: int, span: Span) -> Span:
    if _length(source, axis) == 1 and _length(node, axis) > 1:  # broadcast
        return Span(0, 0, None)
    return span


def _times(span: Span, factor: int | Fraction) -> Fraction | None:
    return None if span.step is None else span.step * factor


def _pair(value: Any) -> Pair:
    values = [value] if isinstance(value, int) else list(value)
    return values[0], values[-1]


def _sliding(node: fx.Node, span: Span, axis: int) -> Span:
    kernel, stride, padding, rate = (values[axis] for values in window(node))
    first = span.first * stride - padding
    return Span(first, span.last * stride - padding + (kernel - 1) * rate, _times(span, stride))


def _convolution(node: fx.Node, source: fx.Node, axis: int, span: Span) -> Span:
    if not node.args[6]:
        return _sliding(node, span, axis)
    # transposed: position x of the input is written to stride * x - padding + rate * k, for the taps k
    kernel, stride, padding, rate = (values[axis] for values in window(node))
    first = (span.first + padding - rate * (kernel - 1)) / stride
    return Span(_ceil(first), _floor((span.last + padding) / stride), _times(span, Fraction(1, stride)))


def _pooling(node: fx.Node, source: fx.Node, axis: int, span: Span) -> Span:
    return _sliding(node, span, axis)


def _adaptive_pooling(node: fx.Node, source: fx.Node, axis: int, span: Span) -> Span:
    return span if _length(node, axis) == _length(source, axis) else EVERYTHING  # windows that grow with the image


def _bilinear(node: fx.Node, source: fx.Node, axis: int, span: Span) -> Span:
    ratio = _ratio(node, source, axis, node.args[3:5])
    half = Fraction(1, 2)
    if node.args[2]:  # align_corners
        ratio, half = Fraction(_length(source, axis) - 1, max(1, _length(node, axis) - 1)), Fraction(0)
    ends = [end if math.isinf(end) else (int(end) + half) * ratio - half for end in (span.first, span.last)]
    return Span(_floor(ends[0]), _ceil(ends[1]), _times(span, ratio))


def _nearest(node: fx.Node, source: fx.Node, axis: int, span: Span) -> Span:
    ratio = _ratio(node, source, axis, node.args[2:4])
    half = Fraction(1, 2) if node.target is aten._upsample_nearest_exact2d.default else Fraction(0)
    ends = [end if math.isinf(end) else (int(end) + half) * ratio for end in (span.first, span.last)]
    return Span(_floor(ends[0]), _floor(ends[1]), _times(span, ratio))


def _ratio(node: fx.Node, source: fx.Node, axis: int, scales: Sequence[Any]) -> Fraction:
    """Positions of the source for one of the enlarged map: from the scale factor if given, else from the sizes."""
    if scales and scales[axis] is not None:
        return 1 / Fraction(scales[axis]).limit_denominator(1 << 16)
    return Fraction(_length(source, axis), _length(node, axis))


def _unpooling(node: fx.Node, source: fx.Node, axis: int, span: Span) -> Span:
    indices: Any = node.args[1]  # the second result of the pooling that is undone
    stride = window(indices.args[0])[1][axis]
    return Span(_floor(span.first / stride), _floor(span.last / stride), _times(span, Fraction(1, stride)))


def _reduction(node: fx.Node, source: fx.Node, axis: int, span: Span) -> Span:
    rank = len(shape(source))
    given: Any = node.args[1] if len(node.args) > 1 else None
    dims = [given] if isinstance(given, int) else given or range(rank)
    return EVERYTHING if rank + axis in {dim % rank for dim in dims} else _same(node, source, axis, span)


def _reshape(node: fx.Node, source: fx.Node, axis: int, span: Span) -> Span:
    if len(shape(source)) >= 2 and shape(node)[-2:] == shape(source)[-2:]:
        return span
    return Span(0, 0, None) if set(shape(source)[2:]) == {1} else EVERYTHING  # flattened: mixes positions


def _everything(node: fx.Node, source: fx.Node, axis: int, span: Span) -> Span:
    return EVERYTHING


def _slice(node: fx.Node, source: fx.Node, axis: int, span: Span) -> Span:
    arguments: list[Any] = [*node.args, *[None] * 4]
    dim, start, step = arguments[1] or 0, arguments[2] or 0, arguments[4] or 1
    rank = len(shape(source))
    if dim % rank != rank + axis:
        return span
    begin = start + _length(source, axis) if start < 0 else start
    return Span(span.first * step + begin, span.last * step + begin, _times(span, step))


def _padding(node: fx.Node, source: fx.Node, axis: int, span: Span) -> Span:
    amounts = (*node.args[1], 0, 0)  # type: ignore[misc]  # left, right, top, bottom
    before = int(amounts[0 if axis == -1 else 2])
    return Span(span.first - before, span.last - before, span.step)


def _floor(value: float | Fraction) -> float:
    return value if isinstance(value, float) and math.isinf(value) else math.floor(value)


def _ceil(value: float | Fraction) -> float:
    return value if isinstance(value, float) and math.isinf(value) else math.ceil(value)


_LISTED: dict[Any, Rule] = {
    aten.max_pool2d_with_indices.default: _pooling,
    aten.avg_pool2d.default: _pooling,
    aten._adaptive_avg_pool2d.default: _adaptive_pooling,
    aten.adaptive_max_pool2d.default: _adaptive_pooling,
    aten.upsample_bilinear2d.default: _bilinear,
    aten.upsample_nearest2d.default: _nearest,
    aten._upsample_nearest_exact2d.default: _nearest,
    aten.max_unpool2d.default: _unpooling,
}
_REDUCTIONS = (
    aten.mean.dim, aten.mean.default, aten.sum.dim_IntList, aten.amax.default, aten.max.dim, aten._softmax.default,
)  # fmt: skip
_RULES: dict[Any, Rule] = {
    **_LISTED,
    aten.convolution.default: _convolution,
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys((aten.view.default, aten._unsafe_view.default, aten.reshape.default), _reshape),
    **dict.fromkeys((aten.addmm.default, aten.mm.default, aten.bmm.default, aten.t.default), _everything),
    aten.slice.Tensor: _slice,
    **dict.fromkeys(
        (aten.constant_pad_nd.default, aten.reflection_pad2d.default, aten.replication_pad2d.default), _padding
    ),
}
_PASS_THROUGH = {
    aten.native_batch_norm.default, aten._native_batch_norm_legit_no_training.default, aten.cat.default,
    aten.stack.default, aten.expand.default, aten.clone.default, aten.detach.default, aten.alias.default,
    aten.hardswish.default, aten.hardswish_.default, aten._to_copy.default,
    aten.unsqueeze.default, aten.squeeze.dim, aten.select.int, aten.unbind.int,
    aten.split.Tensor, aten.split_with_sizes.default, aten.squeeze.dims, aten.native_dropout.default, operator.getitem,
}  # fmt: skip
