"""Exercises of chapter 2, fully convolutional networks: references, inputs, judges and hints."""

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.exercises import mistakes02
from deeplab_lesson.exercises.draw import Draw
from deeplab_lesson.exercises.exercise import Chapter, Exercise, WrongAnswer
from deeplab_lesson.exercises.judging import same_tensor, whole_number, whole_numbers

# ---- sizes and counts ----------------------------------------------------------------------------------------------


def transposed_size(n: int, kernel_size: int, stride: int, padding: int) -> int:
    """Return how many numbers a transposed convolution makes of n numbers."""
    first_to_last = (n - 1) * stride  # from where the first input's kernel begins to where the last one's does
    return first_to_last + kernel_size - 2 * padding


def _draw_transposed_size(draw: Draw) -> tuple[int, int, int, int]:
    kernel_size = draw.whole(3, 8)
    return draw.whole(2, 9), kernel_size, draw.whole(1, 4), draw.whole(1, (kernel_size - 1) // 2)


def _judge_transposed_size(answer: object, n: int, kernel_size: int, stride: int, padding: int) -> None:
    ones, kernel = torch.ones(1, 1, n), torch.ones(1, 1, kernel_size)
    size = F.conv_transpose1d(ones, kernel, stride=stride, padding=padding).shape[2]
    if whole_number(answer) != size:
        raise WrongAnswer(
            f"you return {whole_number(answer)}; the last kernel begins at {(n - 1) * stride} and ends {kernel_size} "
            f"later, and {padding} are cut off at each end: {size}"
        )


def overlap_counts(n: int, kernel_size: int, stride: int) -> list[int]:
    """Return for each output of a transposed convolution without padding how many of its n inputs reach it."""
    counts = [0] * ((n - 1) * stride + kernel_size)
    for i in range(n):
        for tap in range(kernel_size):
            counts[i * stride + tap] += 1
    return counts


def _draw_overlap_counts(draw: Draw) -> tuple[int, int, int]:
    stride = draw.whole(2, 4)
    return draw.whole(2, 5), draw.choice((stride + 1, stride + 2, 2 * stride, 2 * stride + 1)), stride


def _judge_overlap_counts(answer: object, n: int, kernel_size: int, stride: int) -> None:
    counted = F.conv_transpose1d(torch.ones(1, 1, n), torch.ones(1, 1, kernel_size), stride=stride)
    counts, seen = counted.flatten().int().tolist(), whole_numbers(answer)
    if len(seen) != len(counts):
        raise WrongAnswer(f"you return {len(seen)} counts; there are {len(counts)} outputs")
    if seen != counts:
        place = next(i for i in range(len(counts)) if seen[i] != counts[i])
        raise WrongAnswer(f"you return {seen}; output {place} is reached by {counts[place]}, not {seen[place]}")


# ---- enlarging -----------------------------------------------------------------------------------------------------


def bilinear_kernel(factor: int) -> torch.Tensor:
    """Return the kernel [2 * factor] with which a transposed convolution of stride `factor` interpolates linearly.

    `factor` is even, the padding is factor / 2, and the samples stand in the middle of their cells
    (`align_corners=False`).
    """
    middle = factor - 0.5
    return 1 - (torch.arange(2 * factor) - middle).abs() / factor


def _draw_bilinear_kernel(draw: Draw) -> tuple[int]:
    return (draw.choice((2, 4, 6, 8, 10, 16)),)


def _judge_bilinear_kernel(answer: object, factor: int) -> None:
    point = torch.tensor([[[0.0, 0, 1, 0, 0]]])
    enlarged = F.interpolate(point, scale_factor=factor, mode="linear", align_corners=False).flatten()
    first = 2 * factor - factor // 2  # the point's own cell begins at 2 * factor
    same_tensor(answer, enlarged[first : first + 2 * factor])


def transposed_convolution(signal: torch.Tensor, kernel: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """Return the transposed convolution of a signal [n] with a kernel [k]: [(n - 1) * stride + k - 2 * padding]."""
    k = len(kernel)
    full = torch.zeros((len(signal) - 1) * stride + k)
    for i in range(len(signal)):
        full[i * stride : i * stride + k] += signal[i] * kernel
    return full[padding : len(full) - padding]


def _draw_transposed_convolution(draw: Draw) -> tuple[Tensor, Tensor, int, int]:
    stride = draw.whole(2, 3)
    kernel_size = draw.whole(stride + 1, 5)
    return draw.tensor(draw.whole(3, 5)), draw.tensor(kernel_size), stride, draw.whole(1, (kernel_size - 1) // 2)


def _judge_transposed_convolution(answer: object, signal: Tensor, kernel: Tensor, stride: int, padding: int) -> None:
    same_tensor(answer, F.conv_transpose1d(signal.view(1, 1, -1), kernel.view(1, 1, -1), None, stride, padding)[0, 0])


# ---- unpooling -----------------------------------------------------------------------------------------------------


def unpool(values: torch.Tensor, indices: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return a map [height, width] with each of the pooled values [h, w] at the place that it was taken from.

    `indices` [h, w] are the places, counted row by row over the large map, as `F.max_pool2d` returns them. The other
    places hold 0.
    """
    enlarged = torch.zeros(height * width)
    enlarged[indices.flatten()] = values.flatten()
    return enlarged.reshape(height, width)


def _draw_unpool(draw: Draw) -> tuple[Tensor, Tensor, int, int]:
    rows, columns = draw.choice(((1, 2), (2, 3), (3, 2), (2, 4), (3, 4)))
    large = draw.tensor(1, 2 * rows, 2 * columns)
    values, indices = F.max_pool2d(large, 2, return_indices=True)
    return values[0], indices[0], 2 * rows, 2 * columns


def _judge_unpool(answer: object, values: Tensor, indices: Tensor, height: int, width: int) -> None:
    same_tensor(answer, F.max_unpool2d(values[None], indices[None], [2, 2], output_size=(height, width))[0])


CHAPTER = Chapter(
    2,
    "Fully convolutional networks",
    (
        Exercise(
            "fcn.transposed_size",
            transposed_size,
            _draw_transposed_size,
            _judge_transposed_size,
            mistakes02.TRANSPOSED_SIZE,
            (
                "Each input lays a kernel on the output. Where does the first one begin, and where does the last one?",
                "The last begins at `(n - 1) * stride` and is `kernel_size` long. Padding cuts off both ends.",
            ),
        ),
        Exercise(
            "fcn.overlap_counts",
            overlap_counts,
            _draw_overlap_counts,
            _judge_overlap_counts,
            mistakes02.OVERLAP_COUNTS,
            (
                "Input i reaches the outputs `i * stride` to `i * stride + kernel_size - 1`.",
                "Begin with as many zeros as there are outputs, and add 1 wherever an input reaches.",
            ),
        ),
        Exercise(
            "fcn.bilinear_kernel",
            bilinear_kernel,
            _draw_bilinear_kernel,
            _judge_bilinear_kernel,
            mistakes02.BILINEAR_KERNEL,
            (
                "For factor 2 it is 1/4, 3/4, 3/4, 1/4. Where would the top of the tent be, and how wide is one side?",
                "The top, 1, lies at `factor - 0.5`, between two taps. From there it falls by 1 / factor a tap.",
            ),
        ),
        Exercise(
            "fcn.transposed_convolution",
            transposed_convolution,
            _draw_transposed_convolution,
            _judge_transposed_convolution,
            mistakes02.TRANSPOSED_CONVOLUTION,
            (
                "Each input lays the kernel, times itself, on the output, `stride` further than the input before it.",
                "Make room for all of it first, add up, and cut `padding` numbers off each end last.",
            ),
        ),
        Exercise(
            "fcn.unpool",
            unpool,
            _draw_unpool,
            _judge_unpool,
            mistakes02.UNPOOL,
            (
                "Flatten the large map: then an index is a place in it.",
                "`flat[indices.flatten()] = values.flatten()`, and then back to rows.",
            ),
        ),
    ),
)
