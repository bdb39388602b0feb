"""What readers get wrong in the exercises of chapter 2, as functions, each with what to tell them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.exercises.exercise import Misconception

TRANSPOSED_SIZE = (
    Misconception(
        lambda n, kernel_size, stride, padding: n * stride,
        "That holds for a kernel of 2 * stride with a padding of stride / 2, and for few others.",
    ),
    Misconception(
        lambda n, kernel_size, stride, padding: (n + 2 * padding - kernel_size) // stride + 1,
        "That is the size after an ordinary convolution, which makes a map smaller. This one is its transpose.",
    ),
    Misconception(
        lambda n, kernel_size, stride, padding: (n - 1) * stride + kernel_size,
        "You leave the padding out.",
    ),
    Misconception(
        lambda n, kernel_size, stride, padding: (n - 1) * stride + kernel_size + 2 * padding,
        "Here padding makes the output smaller: it is what the ordinary convolution, read backwards, had added.",
    ),
    Misconception(
        lambda n, kernel_size, stride, padding: (n - 1) * stride + kernel_size - padding,
        "Padding counts at both ends.",
    ),
    Misconception(
        lambda n, kernel_size, stride, padding: n * stride + kernel_size - 2 * padding,
        "From the first of n inputs to the last there are n - 1 steps.",
    ),
)


def _overlaps(n: int, kernel_size: int, stride: int) -> list[int]:
    return [
        sum(first <= place < first + kernel_size for first in range(0, n * stride, stride))
        for place in range((n - 1) * stride + kernel_size)
    ]


OVERLAP_COUNTS = (
    Misconception(
        lambda n, kernel_size, stride: _overlaps(n, kernel_size, 1),
        "You move by one output from input to input. They begin `stride` apart.",
    ),
    Misconception(
        lambda n, kernel_size, stride: [min(count, 1) for count in _overlaps(n, kernel_size, stride)],
        "You put a 1 where an input reaches. Where several reach, add them up.",
    ),
    Misconception(
        lambda n, kernel_size, stride: _overlaps(n, kernel_size, stride)[: n * stride],
        "You stop after n * stride outputs. The last kernel goes on beyond that.",
    ),
    Misconception(
        lambda n, kernel_size, stride: [-(-kernel_size // stride)] * ((n - 1) * stride + kernel_size),
        "That many reach an output in the best case. At the ends, and where the stride does not divide the kernel, "
        "fewer do.",
    ),
)


def _tent(factor: int, middle: float, side: float) -> Tensor:
    return (1 - (torch.arange(2 * factor) - middle).abs() / side).clamp(min=0)


BILINEAR_KERNEL = (
    Misconception(
        lambda factor: _tent(factor, factor, factor),
        "Your tent has its top on a tap. With an even number of taps it lies between the two in the middle.",
    ),
    Misconception(
        lambda factor: _tent(factor, factor - 1, factor),
        "Your tent has its top on a tap, as a kernel of 2 * factor - 1 has. Here two taps share the middle.",
    ),
    Misconception(
        lambda factor: _tent(factor, factor - 0.5, factor) / factor,
        "Your weights add up to 1. At each output only two inputs meet, and it is their two weights that add up to 1; "
        "the whole kernel adds up to `factor`.",
    ),
    Misconception(
        lambda factor: _tent(factor, factor - 0.5, factor - 0.5),
        "Your outermost weights are 0: one side of the tent is `factor` wide, half a tap more than you take.",
    ),
    Misconception(
        lambda factor: F.pad(torch.ones(factor), (factor // 2, factor // 2)),
        "That repeats each input `factor` times: nearest neighbor, not bilinear.",
    ),
)


def _transposed(signal: Tensor, kernel: Tensor, stride: int, padding: int) -> Tensor:
    return F.conv_transpose1d(signal.view(1, 1, -1), kernel.view(1, 1, -1), None, stride, padding)[0, 0]


def _overwritten(signal: Tensor, kernel: Tensor, stride: int, padding: int) -> Tensor:
    full = torch.zeros((len(signal) - 1) * stride + len(kernel))
    for i, value in enumerate(signal):
        full[i * stride : i * stride + len(kernel)] = value * kernel
    return full[padding : len(full) - padding]


TRANSPOSED_CONVOLUTION = (
    Misconception(
        lambda signal, kernel, stride, padding: _transposed(signal, kernel.flip(0), stride, padding),
        "Your kernel is turned around. If you insert zeros and convolve, turn it; if each input lays it down, do not.",
    ),
    Misconception(
        _overwritten,
        "Where two kernels meet you keep the last one. They are added.",
    ),
    Misconception(
        lambda signal, kernel, stride, padding: _transposed(signal, kernel, stride, 0),
        "You do not cut off the padding.",
    ),
    Misconception(
        lambda signal, kernel, stride, padding: F.pad(_transposed(signal, kernel, stride, 0), (padding, padding)),
        "You add padding. Here it is cut off at both ends.",
    ),
    Misconception(
        lambda signal, kernel, stride, padding: _transposed(signal, kernel, 1, padding),
        "You leave the stride out: kernels of neighbors begin `stride` apart.",
    ),
)


def _top_left(values: Tensor, indices: Tensor, height: int, width: int) -> Tensor:
    enlarged = torch.zeros(height, width)
    enlarged[::2, ::2] = values
    return enlarged


def _repeated(values: Tensor, indices: Tensor, height: int, width: int) -> Tensor:
    return values.repeat_interleave(2, 0).repeat_interleave(2, 1)


def _by_columns(values: Tensor, indices: Tensor, height: int, width: int) -> Tensor:
    enlarged = torch.zeros(height * width)
    enlarged[indices.flatten()] = values.flatten()
    return enlarged.reshape(width, height).T


def _by_size(values: Tensor, indices: Tensor, height: int, width: int) -> Tensor:
    enlarged = torch.zeros(height * width)
    enlarged[indices.flatten().sort().values] = values.flatten()
    return enlarged.reshape(height, width)


UNPOOL = (
    Misconception(
        _top_left,
        "You put each value into the top left corner of its window. The index says where in the window it was.",
    ),
    Misconception(
        _repeated,
        "You repeat each value four times: nearest neighbor. Unpooling fills one place of four.",
    ),
    Misconception(
        _by_columns,
        "You count the places column by column. They are counted row by row: row = index // width.",
    ),
    Misconception(
        _by_size,
        "You fill the places from the first to the last. Each value has its own index, and they are not in order.",
    ),
)
