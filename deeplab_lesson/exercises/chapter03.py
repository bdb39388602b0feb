"""Exercises of chapter 3, atrous convolution: references, inputs, judges and hints."""

import torch
from torch.nn import functional as F

from deeplab_lesson.exercises import mistakes03
from deeplab_lesson.exercises.draw import Draw
from deeplab_lesson.exercises.exercise import Chapter, Exercise, WrongAnswer
from deeplab_lesson.exercises.judging import same_tensor, whole_number, whole_numbers

# ---- effective kernel ----------------------------------------------------------------------------------------------


def effective_kernel(kernel_size: int, rate: int) -> int:
    """Return how many pixels a kernel of `kernel_size` taps spans along a line at `rate`, first tap to last."""
    return (kernel_size - 1) * rate + 1


def _draw_effective_kernel(draw: Draw) -> tuple[int, int]:
    return draw.whole(1, 7), draw.whole(1, 8)


def _judge_effective_kernel(answer: object, kernel_size: int, rate: int) -> None:
    read = _read_pixels([rate], kernel_size)
    span = read[-1] - read[0] + 1
    if whole_number(answer) != span:
        touched = f"{kernel_size} pixel{'s' if kernel_size > 1 else ''}"
        raise WrongAnswer(f"you return {whole_number(answer)}; the kernel touches {touched} and spans {span}")


def _read_pixels(rates: list[int], kernel_size: int = 3) -> list[int]:
    """The pixels that the first output of a stack of convolutions depends on, by gradient."""
    line = torch.ones(1, 1, 1 + kernel_size * sum(rates), dtype=torch.float64, requires_grad=True)
    features = line
    for rate in rates:
        features = F.conv1d(features, torch.ones(1, 1, kernel_size, dtype=torch.float64), dilation=rate)
    (gradient,) = torch.autograd.grad(features[0, 0, 0], line)
    pixels: list[int] = gradient[0, 0].nonzero().flatten().tolist()
    return pixels


# ---- convolution by loop -------------------------------------------------------------------------------------------


def convolve(signal: torch.Tensor, kernel: torch.Tensor, rate: int) -> torch.Tensor:
    """Return y[i] = sum over k of signal[i + rate * k] * kernel[k], for every i whose taps all lie in the signal."""
    count = len(signal) - rate * (len(kernel) - 1)
    output = torch.zeros(count)
    for i in range(count):
        for k in range(len(kernel)):
            output[i] += signal[i + rate * k] * kernel[k]
    return output


def _draw_convolve(draw: Draw) -> tuple[torch.Tensor, torch.Tensor, int]:
    taps, rate = draw.whole(2, 4), draw.whole(1, 3)
    length = (taps - 1) * (rate + 1) + draw.whole(2, 5)  # room for one rate more, which is a misconception
    return draw.tensor(length), draw.tensor(taps), rate


def _judge_convolve(answer: object, signal: torch.Tensor, kernel: torch.Tensor, rate: int) -> None:
    same_tensor(answer, F.conv1d(signal[None, None], kernel[None, None], dilation=rate)[0, 0])


# ---- zero-inserted kernel ------------------------------------------------------------------------------------------


def insert_zeros(kernel: torch.Tensor, rate: int) -> torch.Tensor:
    """Return the kernel [h, w] with rate - 1 zeros between neighboring weights, on both axes."""
    height, width = kernel.shape
    spread = torch.zeros((height - 1) * rate + 1, (width - 1) * rate + 1)
    spread[::rate, ::rate] = kernel
    return spread


def _draw_insert_zeros(draw: Draw) -> tuple[torch.Tensor, int]:
    return draw.tensor(draw.whole(1, 3), draw.whole(2, 4)), draw.whole(1, 3)


def _judge_insert_zeros(answer: object, kernel: torch.Tensor, rate: int) -> None:
    # The response of an atrous transposed convolution to one pixel is its kernel, spread out.
    same_tensor(answer, F.conv_transpose2d(torch.ones(1, 1, 1, 1), kernel[None, None], dilation=rate)[0, 0])


# ---- output length -------------------------------------------------------------------------------------------------


def output_length(length: int, kernel_size: int, rate: int, stride: int, padding: int) -> int:
    """Return how many outputs a 1-D convolution has on `length` pixels, with `padding` pixels added at each end."""
    span = (kernel_size - 1) * rate + 1
    return (length + 2 * padding - span) // stride + 1


def _draw_output_length(draw: Draw) -> tuple[int, int, int, int, int]:
    kernel_size, rate = draw.whole(1, 5), draw.whole(1, 4)
    return (kernel_size - 1) * rate + draw.whole(2, 20), kernel_size, rate, draw.whole(1, 4), draw.whole(0, 6)


def _judge_output_length(answer: object, length: int, kernel_size: int, rate: int, stride: int, padding: int) -> None:
    line, kernel = torch.ones(1, 1, length), torch.ones(1, 1, kernel_size)
    count = F.conv1d(line, kernel, stride=stride, padding=padding, dilation=rate).shape[2]
    if whole_number(answer) != count:
        raise WrongAnswer(f"you return {whole_number(answer)}; torch's conv1d gives {count} outputs")


# ---- gridding ------------------------------------------------------------------------------------------------------


def touched_positions(rates: list[int]) -> list[int]:
    """Return, sorted, the offsets from an output at which a stack of 3-tap convolutions with these rates reads."""
    reached = {0}
    for rate in rates:
        reached = {position + step for position in reached for step in (-rate, 0, rate)}
    return sorted(reached)


def _draw_touched_positions(draw: Draw) -> tuple[list[int]]:
    return (draw.whole_numbers(draw.whole(1, 3), 1, 5),)


def _judge_touched_positions(answer: object, rates: list[int]) -> None:
    numbers = whole_numbers(answer)
    read = _read_pixels(rates)
    touched = [pixel - (read[0] + read[-1]) // 2 for pixel in read]
    if numbers == touched:
        return
    shown = f"you return {numbers}"
    if sorted(set(numbers)) == touched:
        raise WrongAnswer(f"{shown}: the right offsets, but not each once and sorted")
    if missing := sorted(set(touched) - set(numbers)):
        raise WrongAnswer(f"{shown}; the stack also reads at {missing}, {len(touched)} offsets in all")
    raise WrongAnswer(f"{shown}; the stack does not read at {sorted(set(numbers) - set(touched))}")


# ---- valid weights -------------------------------------------------------------------------------------------------


def valid_weights(height: int, width: int, rate: int, row: int, column: int) -> int:
    """Count the weights of a 3x3 kernel at `rate`, centered at (row, column), that read the map and not padding."""
    rows = sum(0 <= row + step < height for step in (-rate, 0, rate))
    columns = sum(0 <= column + step < width for step in (-rate, 0, rate))
    return rows * columns


def _draw_valid_weights(draw: Draw) -> tuple[int, int, int, int, int]:
    height, width, rate = draw.whole(1, 9), draw.whole(1, 9), draw.whole(1, 6)
    return height, width, rate, _draw_place(draw, height, rate), _draw_place(draw, width, rate)


def _draw_place(draw: Draw, length: int, rate: int) -> int:
    """A position of a line, often one whose outer tap falls just outside or just inside."""
    edges = [place for place in (rate - 1, rate, length - rate, length - rate - 1) if 0 <= place < length]
    return draw.choice(edges) if edges and draw.whole(0, 1) else draw.whole(0, length - 1)


def _judge_valid_weights(answer: object, height: int, width: int, rate: int, row: int, column: int) -> None:
    ones = torch.ones(1, 1, height, width)
    counts = F.conv2d(ones, torch.ones(1, 1, 3, 3), padding=rate, dilation=rate)
    count = int(counts[0, 0, row, column])
    if whole_number(answer) != count:
        raise WrongAnswer(f"you return {whole_number(answer)}; {count} of the 9 weights read inside the map")


CHAPTER = Chapter(
    3,
    "atrous convolution",
    (
        Exercise(
            "atrous.effective_kernel",
            effective_kernel,
            _draw_effective_kernel,
            _judge_effective_kernel,
            mistakes03.EFFECTIVE_KERNEL,
            (
                "Draw the taps of a kernel of 3 at rate 2 on squared paper. How many gaps are between them?",
                "There are `kernel_size - 1` gaps; from one tap to the next it is `rate` pixels. Then add the first.",
            ),
        ),
        Exercise(
            "atrous.convolve",
            convolve,
            _draw_convolve,
            _judge_convolve,
            mistakes03.CONVOLVE,
            (
                "Two loops: over the outputs `i` and over the taps `k`.",
                "The last tap reads `i + rate * (len(kernel) - 1)`, which must stay below `len(signal)`. "
                "That gives the number of outputs.",
            ),
        ),
        Exercise(
            "atrous.insert_zeros",
            insert_zeros,
            _draw_insert_zeros,
            _judge_insert_zeros,
            mistakes03.INSERT_ZEROS,
            (
                "Begin with zeros of the right shape. The first exercise gives the length of each side.",
                "A slice with a step, `spread[::rate, ::rate]`, names the places of the weights.",
            ),
        ),
        Exercise(
            "atrous.output_length",
            output_length,
            _draw_output_length,
            _judge_output_length,
            mistakes03.OUTPUT_LENGTH,
            (
                "At stride 1, how many places has a kernel that spans `s` pixels on a line of `n`?",
                "There are `n - s + 1` places, the first of them at 0. A stride keeps the first and then each "
                "`stride`-th: use `//` before you add 1.",
            ),
        ),
        Exercise(
            "atrous.touched_positions",
            touched_positions,
            _draw_touched_positions,
            _judge_touched_positions,
            mistakes03.TOUCHED_POSITIONS,
            (
                "One layer reads at -rate, 0 and rate. What does the second layer read from each of these?",
                "Keep a `set` of offsets, at first `{0}`. Each layer replaces every offset by three.",
            ),
        ),
        Exercise(
            "atrous.valid_weights",
            valid_weights,
            _draw_valid_weights,
            _judge_valid_weights,
            mistakes03.VALID_WEIGHTS,
            (
                "Rows and columns do not depend on each other: count the valid steps of each.",
                "Of the steps -rate, 0 and rate, count those with `0 <= row + step < height`. Multiply both counts.",
            ),
        ),
    ),
)
