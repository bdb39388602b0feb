"""What readers get wrong in the exercises of chapter 4, as functions, each with what to tell them."""

import itertools
import math

import torch
from torch import Tensor, nn

from deeplab_lesson.exercises.exercise import Misconception

Layers = list[tuple[int, int, int]]
PaddedLayers = list[tuple[int, int, int, int]]


def _own_stride_first(layers: Layers) -> int:
    size = step = 1
    for kernel_size, stride, rate in layers:
        step *= stride
        size += (kernel_size - 1) * rate * step
    return size


def _grow(layers: Layers) -> int:
    steps = itertools.accumulate((stride for _, stride, _ in layers), lambda a, b: a * b, initial=1)
    return 1 + sum((kernel - 1) * rate * step for (kernel, _, rate), step in zip(layers, steps, strict=False))


def _every_tap(layers: Layers) -> int:
    steps = itertools.accumulate((stride for _, stride, _ in layers), lambda a, b: a * b, initial=1)
    return 1 + sum(kernel * rate * step for (kernel, _, rate), step in zip(layers, steps, strict=False))


SIZE_OF_STACK = (
    Misconception(
        lambda layers: _grow([(kernel, 1, rate) for kernel, _, rate in layers]),
        "You ignore strides: behind a stride of 2, one position is two pixels.",
    ),
    Misconception(
        _own_stride_first,
        "A layer's own stride spreads its outputs, not its taps: multiply the step after you add.",
    ),
    Misconception(
        lambda layers: _grow([(kernel, stride, 1) for kernel, stride, _ in layers]),
        "You ignore the rates.",
    ),
    Misconception(
        _every_tap,
        "A kernel of k taps adds k - 1 steps: its first tap was there before.",
    ),
    Misconception(
        lambda layers: _grow(layers[::-1]),
        "You begin with the last layer. The strides that count are those before a layer.",
    ),
)


def _starts(layers: PaddedLayers, own_stride: bool = False) -> tuple[int, int]:
    total, start = 1, 0
    for _, stride, _, padding in layers:
        start -= padding * total * (stride if own_stride else 1)
        total *= stride
    return total, start


def _center(layers: PaddedLayers) -> tuple[int, int]:
    total, start = _starts(layers)
    return total, start + _grow([layer[:3] for layer in layers]) // 2


STRIDE_AND_START = (
    Misconception(
        lambda layers: (_starts(layers)[0], -sum(layer[3] for layer in layers)),
        "Padding counts positions of its own map: multiply it with the strides before it.",
    ),
    Misconception(
        lambda layers: (_starts(layers)[0], -_starts(layers)[1]),
        "Padding stands before pixel 0: the start is negative.",
    ),
    Misconception(
        lambda layers: _starts(layers, own_stride=True),
        "A layer pads its input, which its own stride has not made coarser yet.",
    ),
    Misconception(
        lambda layers: (sum(layer[1] for layer in layers), _starts(layers)[1]),
        "Strides multiply: two layers of stride 2 keep one position of four.",
    ),
    Misconception(_center, "That is the middle of the field; asked is where it begins."),
)


def _equal(layers: int, field: int) -> list[int]:
    return [max(1, field // 2 // layers)] * layers


CHOOSE_RATES = (
    Misconception(_equal, "Equal rates above 1 leave holes: each layer stays on the grid of the one before."),
    Misconception(lambda layers, field: [1] * layers, "Without holes, but rate 1 everywhere does not look far enough."),
    Misconception(
        lambda layers, field: [1] * (layers - 1) + [field // 2 - layers + 1],
        "One large rate jumps over what the small ones have read: let the rates grow step by step.",
    ),
    Misconception(
        lambda layers, field: [2**layer for layer in range(layers)],
        "Rates that double leave no holes, but the sum of the rates decides the field: here it must be field // 2.",
    ),
    Misconception(
        lambda layers, field: [1] * (layers - 1) + [field - layers],
        "A layer adds its rate on both sides: the rates sum to field // 2, not to field - 1.",
    ),
)


def _keep(strides: list[int], output_stride: int) -> list[int]:
    totals = itertools.accumulate(strides, lambda a, b: a * b)
    return [stride if total <= output_stride else 1 for stride, total in zip(strides, totals, strict=True)]


def _removed(strides: list[int], output_stride: int) -> list[int]:
    return [stride // kept for stride, kept in zip(strides, _keep(strides, output_stride), strict=True)]


def _rate_with_own_stride(strides: list[int], output_stride: int) -> list[tuple[int, int]]:
    rates = itertools.accumulate(_removed(strides, output_stride), lambda a, b: a * b)
    return list(zip(_keep(strides, output_stride), rates, strict=True))


def _one_rate(strides: list[int], output_stride: int) -> list[tuple[int, int]]:
    rate = math.prod(_removed(strides, output_stride))
    return [(stride, rate) for stride in _keep(strides, output_stride)]


def _only_behind(strides: list[int], output_stride: int) -> list[tuple[int, int]]:
    """The rate of the stride removed last, and not the product of all."""
    plan, rate = [], 1
    for stride, removed in zip(_keep(strides, output_stride), _removed(strides, output_stride), strict=True):
        plan.append((stride, rate))
        rate = removed if removed > 1 else rate
    return plan


def _last_strides_kept(strides: list[int], output_stride: int) -> list[tuple[int, int]]:
    kept = _keep(strides[::-1], output_stride)[::-1]
    plan, rate = [], 1
    for stride, stays in zip(strides, kept, strict=True):
        plan.append((stays, rate))
        rate *= stride // stays
    return plan


PLAN_LAYERS = (
    Misconception(
        _rate_with_own_stride,
        "You count a convolution's own removed stride. It still reads the map before it; only those after it are "
        "spread. Several libraries make this mistake.",
    ),
    Misconception(
        lambda strides, output_stride: [(stride, 1) for stride in _keep(strides, output_stride)],
        "You remove strides and leave all rates at 1: the field shrinks, and trained weights see another picture.",
    ),
    Misconception(_one_rate, "You give every convolution the last rate: those before the first removed stride keep 1."),
    Misconception(_only_behind, "Two removed strides of 2 make a rate of 4: removed strides multiply."),
    Misconception(_last_strides_kept, "You keep the last strides. The first are kept, so that early maps stay small."),
)


def _gradient(network: nn.Module, height: int, width: int, place: str = "middle") -> Tensor:
    image = torch.zeros(1, 1, height, width, requires_grad=True)
    output = network(image)[0, 0]
    value = {"middle": output[output.shape[0] // 2, output.shape[1] // 2], "first": output[0, 0], "sum": output.sum()}
    (gradient,) = torch.autograd.grad(value[place], image)
    return gradient[0, 0] != 0


def _extent(touched: Tensor) -> tuple[int, int]:
    ends = [touched.any(dim=1 - axis).nonzero() for axis in (0, 1)]
    height, width = (int(found.max() - found.min()) + 1 if len(found) else 0 for found in ends)
    return height, width


def _counted(network: nn.Module, height: int, width: int) -> tuple[int, int]:
    touched = _gradient(network, height, width)
    return int(touched.any(dim=1).sum()), int(touched.any(dim=0).sum())


MEASURE = (
    Misconception(
        lambda network, height, width: _extent(_gradient(network, height, width, "sum")),
        "That is what all outputs see together. Take one number of the output before `backward()`.",
    ),
    Misconception(
        _counted,
        "You count rows and columns with a gradient. With rates above 1 there are holes: measure from first to last.",
    ),
    Misconception(
        lambda network, height, width: _extent(_gradient(network, height, width))[::-1],
        "Height and width are swapped: dim 2 of the image is its rows.",
    ),
    Misconception(
        lambda network, height, width: _extent(_gradient(network, height, width, "first")),
        "Output (0, 0) reads padding, which has no gradient: take the middle.",
    ),
    Misconception(
        lambda network, height, width: tuple(length - 1 for length in _extent(_gradient(network, height, width))),
        "From pixel a to pixel b there are b - a + 1 pixels.",
    ),
)
