"""Exercises of chapter 5, DeepLab v1: references, inputs, judges and hints."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.backbones.vgg import STAGES
from deeplab_lesson.exercises import mistakes05
from deeplab_lesson.exercises.draw import Draw
from deeplab_lesson.exercises.exercise import Chapter, Exercise, WrongAnswer
from deeplab_lesson.exercises.judging import real_number, same_tensor, whole_number, whole_numbers
from deeplab_lesson.training.schedules import step_schedule

# ---- fields --------------------------------------------------------------------------------------------------------


def two_fields(kernel_size: int, rate: int) -> tuple[int, int]:
    """Return how many pixels fc6 sees at output stride 8, by two counts: v1's Table 2, and the true field.

    The table lets a position of pool5 stand for 32 pixels; in truth it sees 212.
    """
    span = (kernel_size - 1) * rate * 8
    return span + 32, span + 212


def _draw_two_fields(draw: Draw) -> tuple[int, int]:
    return draw.whole(2, 7), draw.whole(1, 12)


def _judge_two_fields(answer: object, kernel_size: int, rate: int) -> None:
    table, field = whole_numbers(answer, 2)
    cell, seen = 1, 1
    for _, convolutions, _ in STAGES:  # VGG-16 itself, where every pooling strides
        seen += convolutions * 2 * cell + cell
        cell *= 2
    firsts = [8 * rate * tap for tap in range(kernel_size)]  # pixel at which a tap's cell begins
    wanted = tuple(firsts[-1] + width - firsts[0] for width in (cell, seen))
    if (table, field) != wanted:
        raise WrongAnswer(
            f"you return {(table, field)}; the last tap stands {firsts[-1]} pixels behind the first, and both see "
            f"{cell} pixels by the table's count, {seen} in truth: {wanted}"
        )


# ---- schedule ------------------------------------------------------------------------------------------------------


def learning_rate(iteration: int, base: float, every: int) -> float:
    """Return v1's learning rate at an iteration, counted from 0: `base`, times 0.1 after each `every` iterations."""
    drops = iteration // every
    return base * 0.1**drops


def _draw_learning_rate(draw: Draw) -> tuple[int, float, int]:
    every = draw.choice((500, 1000, 2000))
    iteration = every * draw.whole(0, 3) + draw.choice((0, 0, draw.whole(1, every - 1)))
    return iteration, draw.choice((0.001, 0.01)), every


def _judge_learning_rate(answer: object, iteration: int, base: float, every: int) -> None:
    seen, rate = real_number(answer), base * step_schedule(every)(iteration)
    if not math.isclose(seen, rate, rel_tol=1e-4):
        passed = [every * number for number in range(1, iteration // every + 1)]
        said = f"it falls at {', '.join(map(str, passed))}" if passed else f"it first falls at iteration {every}"
        raise WrongAnswer(f"you return {seen:.4g}; {said}, and is {rate:.4g}")


# ---- surgery -------------------------------------------------------------------------------------------------------


def convolution_weight(weight: torch.Tensor, channels: int, size: int) -> torch.Tensor:
    """Return the weight [out, channels, size, size] of the convolution that a fully connected layer becomes.

    Its own weight is [out, channels * size * size]; it read a map [channels, size, size] that was flattened.
    """
    return weight.reshape(-1, channels, size, size)


def _draw_convolution_weight(draw: Draw) -> tuple[Tensor, int, int]:
    channels, size = draw.whole(2, 3), draw.whole(2, 3)
    return draw.tensor(draw.whole(2, 3), channels * size * size), channels, size


def _judge_convolution_weight(answer: object, weight: Tensor, channels: int, size: int) -> None:
    one_hot = torch.eye(channels * size * size).view(-1, channels, size, size)  # maps with a single 1, one a place
    answers = F.linear(one_hot.flatten(1), weight)  # [places, out]
    same_tensor(answer, answers.T.reshape(len(weight), *one_hot.shape[1:]))


def subsample_taps(weight: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Return every s-th tap of a kernel [out, in, k, k] as [out, in, kernel_size, kernel_size], both ends included."""
    step = (weight.shape[3] - 1) // (kernel_size - 1)
    return weight[:, :, ::step, ::step].clone()


def _draw_subsample(draw: Draw) -> tuple[Tensor, int]:
    large, small = draw.choice(((5, 3), (7, 3), (7, 4), (9, 3)))
    return draw.tensor(draw.whole(1, 2), draw.whole(1, 2), large, large), small


def _judge_subsample(answer: object, weight: Tensor, kernel_size: int) -> None:
    places = torch.linspace(0, weight.shape[2] - 1, kernel_size).round().long()
    same_tensor(answer, weight[:, :, places][:, :, :, places])


# ---- counting ------------------------------------------------------------------------------------------------------


def head_parameters(kernel_size: int, channels: int, classes: int) -> int:
    """Return the number of weights and biases of fc6, fc7 (1x1) and fc8 (1x1) on pool5's 512 channels.

    fc6 and fc7 have `channels` channels each, fc8 one for each class.
    """
    fc6 = channels * (512 * kernel_size**2 + 1)
    fc7 = channels * (channels + 1)
    fc8 = classes * (channels + 1)
    return fc6 + fc7 + fc8


def _draw_head_parameters(draw: Draw) -> tuple[int, int, int]:
    return draw.whole(2, 7), draw.choice((16, 64, 256, 1024)), draw.whole(2, 21)


def _judge_head_parameters(answer: object, kernel_size: int, channels: int, classes: int) -> None:
    shapes = {  # of weights; each of their first index has a bias
        "fc6": (channels, STAGES[-1][2], kernel_size, kernel_size),
        "fc7": (channels, channels, 1, 1),
        "fc8": (classes, channels, 1, 1),
    }
    counts = {name: math.prod(shape) + shape[0] for name, shape in shapes.items()}
    if whole_number(answer) != sum(counts.values()):
        parts = ", ".join(f"{name} has {count:,}" for name, count in counts.items())
        raise WrongAnswer(f"you return {whole_number(answer):,}; {parts}: {sum(counts.values()):,} together")


CHAPTER = Chapter(
    5,
    "DeepLab v1",
    (
        Exercise(
            "v1.two_fields",
            two_fields,
            _draw_two_fields,
            _judge_two_fields,
            mistakes05.TWO_FIELDS,
            (
                "Both count from the first tap of fc6 to its last. How many positions of 8 pixels lie between them?",
                "Distance of the outer taps in pixels, plus the width of what one position sees.",
            ),
        ),
        Exercise(
            "v1.learning_rate",
            learning_rate,
            _draw_learning_rate,
            _judge_learning_rate,
            mistakes05.LEARNING_RATE,
            (
                "How many times have `every` iterations passed at iteration 0, at 1999, at 2000?",
                "`//` divides and rounds down. Each drop multiplies by 0.1.",
            ),
        ),
        Exercise(
            "v1.convolution_weight",
            convolution_weight,
            _draw_convolution_weight,
            _judge_convolution_weight,
            mistakes05.CONVOLUTION_WEIGHT,
            (
                "In which order does `flatten` walk through a map [channels, rows, columns]?",
                "The last index runs fastest, in flattening and in reshaping: nothing has to be moved.",
            ),
        ),
        Exercise(
            "v1.subsample_taps",
            subsample_taps,
            _draw_subsample,
            _judge_subsample,
            mistakes05.SUBSAMPLE,
            (
                "From 7 taps to 4, both ends included: which four? Which three of 7?",
                "Between `kernel_size` taps are `kernel_size - 1` steps, and k taps span k - 1 places: the step is "
                "(k - 1) // (kernel_size - 1).",
            ),
        ),
        Exercise(
            "v1.head_parameters",
            head_parameters,
            _draw_head_parameters,
            _judge_head_parameters,
            mistakes05.HEAD_PARAMETERS,
            (
                "A convolution has one weight for each output channel, input channel and tap, and one bias a channel.",
                "fc6 reads 512 channels with k * k taps; fc7 and fc8 read `channels` channels with one tap.",
            ),
        ),
    ),
)
