"""What readers get wrong in the exercises of chapter 3, as functions, each with what to tell them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.exercises.exercise import Misconception

EFFECTIVE_KERNEL = (
    Misconception(
        lambda kernel_size, rate: kernel_size * rate,
        "It is kernel_size * rate: that counts the zeros after the last tap, too.",
    ),
    Misconception(
        lambda kernel_size, rate: kernel_size + (kernel_size - 1) * rate,
        "That puts `rate` zeros between neighboring taps; there are rate - 1.",
    ),
    Misconception(
        lambda kernel_size, rate: 2 * rate + 1,
        "2 * rate + 1 is right for three taps only.",
    ),
    Misconception(
        lambda kernel_size, rate: kernel_size,
        "That is the number of taps, which no rate changes. How far apart are the outer ones?",
    ),
)


def _correlate(signal: Tensor, kernel: Tensor, rate: int = 1, stride: int = 1) -> Tensor:
    return F.conv1d(signal[None, None], kernel[None, None], dilation=rate, stride=stride)[0, 0]


CONVOLVE = (
    Misconception(
        lambda signal, kernel, rate: _correlate(signal, kernel.flip(0), rate),
        "Your kernel is mirrored. Signal processing does that; here kernel[0] meets the leftmost pixel.",
    ),
    Misconception(
        lambda signal, kernel, rate: _correlate(signal, kernel, stride=rate),
        "You use the rate as a stride: it moves the kernel, and does not spread its taps.",
    ),
    Misconception(
        lambda signal, kernel, rate: _correlate(signal, kernel),
        "The rate changes nothing in your function: it reads neighboring pixels.",
    ),
    Misconception(
        lambda signal, kernel, rate: _correlate(signal, kernel, rate + 1),
        "Your taps are rate + 1 apart: there are rate - 1 zeros between them, so they are `rate` apart.",
    ),
    Misconception(
        lambda signal, kernel, rate: _correlate(signal, kernel, rate)[:-1],
        "Your loop ends one output early.",
    ),
)


def _only_columns(kernel: Tensor, rate: int) -> Tensor:
    spread = kernel.new_zeros(kernel.shape[0], (kernel.shape[1] - 1) * rate + 1)
    spread[:, ::rate] = kernel
    return spread


def _spread(kernel: Tensor, rate: int) -> Tensor:
    return F.conv_transpose2d(torch.ones(1, 1, 1, 1), kernel[None, None], dilation=rate)[0, 0]


def _first_of_block(kernel: Tensor, rate: int) -> Tensor:
    block = kernel.new_zeros(rate, rate)
    block[0, 0] = 1
    return torch.kron(kernel, block)


INSERT_ZEROS = (
    Misconception(_first_of_block, "Zeros stand between weights, and none after the last."),
    Misconception(
        lambda kernel, rate: _spread(kernel, rate + 1),
        "You insert `rate` zeros. At rate 1 there must be none.",
    ),
    Misconception(
        lambda kernel, rate: kernel.repeat_interleave(rate, 0).repeat_interleave(rate, 1),
        "You repeat the weights. That is a larger kernel of blocks; what is inserted must be zero.",
    ),
    Misconception(_only_columns, "You insert zeros within the rows, but none between the rows."),
    Misconception(lambda kernel, rate: _spread(kernel, rate).T, "Your result is transposed: rows became columns."),
)


OUTPUT_LENGTH = (
    Misconception(
        lambda length, kernel_size, rate, stride, padding: (
            (length + padding - (kernel_size - 1) * rate - 1) // stride + 1
        ),
        "The padding is added at each end: twice.",
    ),
    Misconception(
        lambda length, kernel_size, rate, stride, padding: (length + 2 * padding - kernel_size) // stride + 1,
        "That takes the number of taps for what they span: the rate is missing.",
    ),
    Misconception(
        lambda length, kernel_size, rate, stride, padding: (
            (length + 2 * padding - (kernel_size - 1) * rate - 1) // stride
        ),
        "The first position, 0, counts as well: add 1.",
    ),
    Misconception(
        lambda length, kernel_size, rate, stride, padding: (
            -((length + 2 * padding - (kernel_size - 1) * rate - 1) // -stride) + 1
        ),
        "You round up. A stride that would step over the end gives no output: round down.",
    ),
)

TOUCHED_POSITIONS = (
    Misconception(
        lambda rates: [-rates[-1], 0, rates[-1]],
        "That is the last layer alone: what it reads are features, which have read around themselves.",
    ),
    Misconception(
        lambda rates: sorted({0, *rates, *(-rate for rate in rates)}),
        "You unite what the layers read, each around the output. A layer reads around each offset of the one above.",
    ),
    Misconception(
        lambda rates: list(range(-sum(rates), sum(rates) + 1)),
        "Those are all positions of the field. A stack may leave holes: that is gridding.",
    ),
    Misconception(
        lambda rates: [offset + sum(rates) for offset in _offsets(rates)],
        "You count from the first pixel that is read. The output is in the middle, at 0.",
    ),
)


def _offsets(rates: list[int]) -> list[int]:
    offsets = [0]
    for rate in rates:
        offsets = [offset + step for offset in offsets for step in (-rate, 0, rate)]
    return sorted(set(offsets))


def _inside(length: int, place: int, rate: int) -> int:
    return 1 + (place >= rate) + (place + rate < length)


VALID_WEIGHTS = (
    Misconception(
        lambda height, width, rate, row, column: _inside(width, row, rate) * _inside(height, column, rate),
        "You compare the row with the width and the column with the height.",
    ),
    Misconception(
        lambda height, width, rate, row, column: _inside(height, row, rate) + _inside(width, column, rate),
        "Every valid row goes with every valid column: multiply, do not add.",
    ),
    Misconception(
        lambda height, width, rate, row, column: _inside(height + 1, row, rate) * _inside(width + 1, column, rate),
        "The last row is height - 1: a tap at `height` reads padding.",
    ),
    Misconception(
        lambda height, width, rate, row, column: (
            9 if _inside(height, row, rate) * _inside(width, column, rate) == 9 else 1
        ),
        "Near one border only some weights are lost: between 9 and 1 there are 2, 3, 4 and 6.",
    ),
)
