"""Exercises of chapter 4, the receptive field: references, inputs, judges and hints."""

import itertools
import math

import torch
from torch import nn

from deeplab_lesson.exercises import mistakes04
from deeplab_lesson.exercises.draw import Draw
from deeplab_lesson.exercises.exercise import Chapter, Exercise, WrongAnswer
from deeplab_lesson.exercises.judging import whole_number, whole_numbers
from deeplab_lesson.layers.atrous import gridding_coverage
from deeplab_lesson.layers.dilation import plan_dilation

# ---- recurrence ----------------------------------------------------------------------------------------------------


def size_of_stack(layers: list[tuple[int, int, int]]) -> int:
    """Return the field, in pixels along a line, of a stack of layers (kernel_size, stride, rate), first layer first."""
    size, step = 1, 1  # step: pixels from one position of the map to the next
    for kernel_size, stride, rate in layers:
        size += (kernel_size - 1) * rate * step
        step *= stride
    return size


def _draw_size_of_stack(draw: Draw) -> tuple[list[tuple[int, int, int]]]:
    count = draw.whole(1, 4)
    return ([(draw.whole(1, 5), draw.whole(1, 2), draw.whole(1, 3)) for _ in range(count)],)


def _judge_size_of_stack(answer: object, layers: list[tuple[int, int, int]]) -> None:
    size = _first_field([(*layer, 0) for layer in layers])[1] + 1  # without padding it begins at 0
    if whole_number(answer) != size:
        raise WrongAnswer(f"you return {whole_number(answer)}; the output depends on pixels that span {size}")


def _first_field(layers: list[tuple[int, int, int, int]], output: int = 0) -> tuple[int, int]:
    """Where the field of an output begins and ends, found by listing every pixel that is read, from the end back."""
    read = {output}
    for kernel_size, stride, rate, padding in reversed(layers):
        read = {stride * position - padding + rate * tap for position in read for tap in range(kernel_size)}
    return min(read), max(read)


# ---- grid ----------------------------------------------------------------------------------------------------------


def stride_and_start(layers: list[tuple[int, int, int, int]]) -> tuple[int, int]:
    """Return (stride, start) of a stack of layers (kernel_size, stride, rate, padding), first layer first.

    The field of output i begins at pixel start + stride * i; pixels before 0 are padding.
    """
    total, start = 1, 0
    for _, stride, _, padding in layers:
        start -= padding * total
        total *= stride
    return total, start


def _draw_stride_and_start(draw: Draw) -> tuple[list[tuple[int, int, int, int]]]:
    count = draw.whole(1, 4)
    return ([(draw.whole(1, 5), draw.whole(1, 3), draw.whole(1, 3), draw.whole(0, 4)) for _ in range(count)],)


def _judge_stride_and_start(answer: object, layers: list[tuple[int, int, int, int]]) -> None:
    stride, start = whole_numbers(answer, 2)
    first, second = (_first_field(layers, output)[0] for output in (0, 1))
    if (stride, start) != (second - first, first):
        raise WrongAnswer(
            f"you return {(stride, start)}; the fields of outputs 0 and 1 begin at pixels {first} and {second}"
        )


# ---- rates without holes -------------------------------------------------------------------------------------------


def choose_rates(layers: int, field: int) -> list[int]:
    """Return rates of `layers` 3-tap convolutions whose stack has a field of `field` pixels and reads each of them."""
    rates: list[int] = []
    reach = 0  # all pixels up to this far from the middle are read
    for to_come in reversed(range(layers)):
        rate = min(2 * reach + 1, field // 2 - reach - to_come)
        rates.append(rate)
        reach += rate
    return rates


def _draw_choose_rates(draw: Draw) -> tuple[int, int]:
    layers = draw.whole(2, 4)
    return layers, 2 * draw.whole(layers, (3**layers - 1) // 2) + 1  # more cannot be read without holes


def _judge_choose_rates(answer: object, layers: int, field: int) -> None:
    rates = whole_numbers(answer, layers)
    if min(rates) < 1:
        raise WrongAnswer(f"you return {rates}; a rate is at least 1")
    if 1 + 2 * sum(rates) != field:
        raise WrongAnswer(f"you return {rates}, with a field of {1 + 2 * sum(rates)} pixels; each rate adds 2 * rate")
    read = int((gridding_coverage(rates)[field // 2] > 0).sum())
    if read != field:
        raise WrongAnswer(f"you return {rates}, which reads only {read} of the {field} pixels")


# ---- output stride -------------------------------------------------------------------------------------------------


def plan_layers(strides: list[int], output_stride: int) -> list[tuple[int, int]]:
    """Return (stride, rate) of each convolution, so that the last map has `output_stride` and features do not change.

    The first strides are kept, as many as fit.
    """
    plan, reached, rate = [], 1, 1
    for stride in strides:
        if reached * stride <= output_stride:
            plan.append((stride, rate))
            reached *= stride
        else:
            plan.append((1, rate))
            rate *= stride
    return plan


def _draw_plan_layers(draw: Draw) -> tuple[list[int], int]:
    strides = [draw.choice((1, 2)) for _ in range(draw.whole(1, 3))] + [2, 1, 2, 1, 2, 1]
    reached = sorted(set(itertools.accumulate(strides, lambda total, stride: total * stride)) - {1})
    return strides, draw.choice(reached)


def _judge_plan_layers(answer: object, strides: list[int], output_stride: int) -> None:
    if not isinstance(answer, list | tuple) or len(answer) != len(strides):
        raise WrongAnswer(f"you do not return a list of {len(strides)} pairs, one for each convolution")
    plan = plan_dilation(output_stride, {str(place): stride for place, stride in enumerate(strides)})
    ours = [tuple(whole_numbers(pair, 2)) for pair in answer]
    if (total := math.prod(stride for stride, _ in ours)) != output_stride:
        raise WrongAnswer(f"your strides multiply to {total}")
    for place, ((stride, rate), stage) in enumerate(zip(ours, plan.stages, strict=True)):
        if stride != stage.stride:
            raise WrongAnswer(f"you give strides[{place}] the stride {stride}; it must be {stage.stride}")
        if rate != stage.rate_before:
            raise WrongAnswer(
                f"you give strides[{place}] the rate {rate}; the strides removed before it multiply to "
                f"{stage.rate_before}, and any other rate changes the features"
            )


# ---- measuring -----------------------------------------------------------------------------------------------------


def measure(network: torch.nn.Module, height: int, width: int) -> tuple[int, int]:
    """Return height and width of the field of the network's middle output, by gradient, on an image [1, 1, H, W]."""
    image = torch.zeros(1, 1, height, width, requires_grad=True)
    output = network(image)
    middle = output[0, 0, output.shape[2] // 2, output.shape[3] // 2]
    touched = torch.autograd.grad(middle, image)[0][0, 0] != 0
    rows = touched.any(dim=1).nonzero()
    columns = touched.any(dim=0).nonzero()
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


def _draw_measure(draw: Draw) -> tuple[nn.Module, int, int]:
    layers = [draw.convolution() for _ in range(draw.whole(1, 2))]
    return nn.Sequential(*layers), draw.whole(50, 56), draw.whole(50, 56)


def _judge_measure(answer: object, network: nn.Sequential, height: int, width: int) -> None:
    seen = tuple(whole_numbers(answer, 2))
    ends = [_first_field([_along(layer, axis) for layer in network if isinstance(layer, nn.Conv2d)]) for axis in (0, 1)]
    field = tuple(last - first + 1 for first, last in ends)
    if seen != field:
        raise WrongAnswer(f"you return {seen}; the kernels, strides and rates give {field}")


def _along(layer: nn.Conv2d, axis: int) -> tuple[int, int, int, int]:
    return layer.kernel_size[axis], layer.stride[axis], layer.dilation[axis], int(layer.padding[axis])


CHAPTER = Chapter(
    4,
    "the receptive field",
    (
        Exercise(
            "field.size_of_stack",
            size_of_stack,
            _draw_size_of_stack,
            _judge_size_of_stack,
            mistakes04.SIZE_OF_STACK,
            (
                "A kernel at rate `r` adds `(kernel_size - 1) * r` positions of its input map. What is that in pixels?",
                "Neighbors of a map are as many pixels apart as the strides before it multiply to. Keep that product.",
            ),
        ),
        Exercise(
            "field.stride_and_start",
            stride_and_start,
            _draw_stride_and_start,
            _judge_stride_and_start,
            mistakes04.STRIDE_AND_START,
            (
                "Which input position does the first tap of output 0 read, if the layer pads by 2?",
                "Each layer moves the start back by its padding, counted in positions of its own input map.",
            ),
        ),
        Exercise(
            "field.choose_rates",
            choose_rates,
            _draw_choose_rates,
            _judge_choose_rates,
            mistakes04.CHOOSE_RATES,
            (
                "Three layers and a field of 13: the rates sum to 6. Which three read every pixel?",
                "If `2 * reach + 1` pixels are read without holes, the next rate may be as large as that, not larger.",
            ),
        ),
        Exercise(
            "field.plan_layers",
            plan_layers,
            _draw_plan_layers,
            _judge_plan_layers,
            mistakes04.PLAN_LAYERS,
            (
                "Walk through the strides with the product of those kept and the product of those removed.",
                "A convolution whose own stride goes still reads the map before it: its rate does not change yet.",
            ),
        ),
        Exercise(
            "field.measure",
            measure,
            _draw_measure,
            _judge_measure,
            mistakes04.MEASURE,
            (
                "Ask for the gradient of one number, the middle of the output. Where on the image is it not 0?",
                "From the first row with a gradient to the last, both counted; the same for columns. Mind the holes.",
            ),
        ),
    ),
)
