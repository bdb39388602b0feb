"""What readers get wrong in the exercises of chapter 7, as functions, each with what to tell them."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.exercises.exercise import Misconception


def _sides(height: int, width: int, output_stride: int) -> tuple[int, int]:
    return math.ceil(height / output_stride), math.ceil(width / output_stride)


FIRST_USELESS_RATE = (
    Misconception(
        lambda height, width, output_stride: max(height, width) // output_stride,
        "You round the map's size down. The position at pixel 0 counts as well: (size - 1) // output_stride + 1.",
    ),
    Misconception(
        lambda height, width, output_stride: min(_sides(height, width, output_stride)),
        "You take the shorter side. Along the longer one a tap at that distance still finds the map.",
    ),
    Misconception(
        lambda height, width, output_stride: max(_sides(height, width, output_stride)) - 1,
        "That rate is one too low: from the first position of a line its last one is still read.",
    ),
    Misconception(
        lambda height, width, output_stride: max(height, width),
        "You count in pixels. Rates are counted in positions of the map.",
    ),
    Misconception(
        lambda height, width, output_stride: max(_sides(height, width, output_stride)) // 2 + 1,
        "From there on no position has all nine weights. Others still have two, four or six of them.",
    ),
)

FIELD_OF_PYRAMID = (
    Misconception(
        lambda rates, output_stride, seen: 2 * sum(rates) * output_stride + seen,
        "You add the rates, as if the branches stood one behind the other. They stand side by side.",
    ),
    Misconception(
        lambda rates, output_stride, seen: 2 * max(rates) + seen,
        "You leave the output stride out: a rate counts positions, and they are `output_stride` pixels apart.",
    ),
    Misconception(
        lambda rates, output_stride, seen: max(rates) * output_stride + seen,
        "You reach to one side only. Taps lie on both sides of the middle.",
    ),
    Misconception(
        lambda rates, output_stride, seen: (2 * max(rates) + 1) * output_stride,
        "You count positions and leave out what each of them sees. The outer taps see `seen` pixels.",
    ),
    Misconception(
        lambda rates, output_stride, seen: (2 * max(rates) + 1) * output_stride + seen,
        "You count one position too many: between three taps are two gaps.",
    ),
)


def _branches(features: Tensor, weights: Tensor, rates: list[int]) -> list[Tensor]:
    pairs = zip(weights, rates, strict=True)
    return [F.conv2d(features, weight, padding=rate, dilation=rate) for weight, rate in pairs]


SUM_OF_BRANCHES = (
    Misconception(
        lambda features, weights, rates: torch.cat(_branches(features, weights, rates), dim=1),
        "You put the branches behind each other, as v3 does. v2 adds their scores.",
    ),
    Misconception(
        lambda features, weights, rates: torch.stack(_branches(features, weights, rates)).mean(dim=0),
        "You take the mean. v2 takes the sum: with the mean, every branch would speak more softly.",
    ),
    Misconception(
        lambda features, weights, rates: torch.stack(_branches(features, weights, rates)).amax(dim=0),
        "You take the largest score. v2 does that over sizes of the input; branches are added.",
    ),
    Misconception(
        lambda features, weights, rates: sum(F.conv2d(features, weight, padding=1) for weight in weights),
        "You leave the rates out: all your branches read the direct neighbors.",
    ),
    Misconception(
        lambda features, weights, rates: sum(_branches(features, weights, [rates[0]] * len(rates))),
        "All your branches have the first rate. Each has its own.",
    ),
    Misconception(
        lambda features, weights, rates: sum(_branches(features, weights[:1].expand_as(weights), rates)),
        "All your branches have the weights of the first. Each learns its own.",
    ),
)


def _spread(values: Tensor, features: Tensor) -> Tensor:
    return values[:, :, None, None].expand(-1, -1, *features.shape[2:])


def _mean_of_batch(features: Tensor, weight: Tensor) -> Tensor:
    mean = features.mean(dim=(0, 2, 3))[None].expand(len(features), -1)
    return _spread(mean @ weight.T, features)


IMAGE_POOLING = (
    Misconception(
        lambda features, weight: (features.mean(dim=(2, 3)) @ weight.T)[:, :, None, None],
        "You stop at one position a picture. The branch stands beside maps: put its numbers at every position.",
    ),
    Misconception(
        lambda features, weight: _spread(features.sum(dim=(2, 3)) @ weight.T, features),
        "You take the sum: that would grow with the size of the picture. Divide by the number of positions.",
    ),
    Misconception(
        lambda features, weight: _spread(features.amax(dim=(2, 3)) @ weight.T, features),
        "You take the largest value. v3 takes the mean.",
    ),
    Misconception(
        _mean_of_batch, "You take the mean over the batch, too: then one picture's answer depends on the others."
    ),
    Misconception(
        lambda features, weight: torch.einsum("nchw,oc->nohw", features, weight),
        "You mix and do not pool: that is the 1x1 branch, which sees its own position only.",
    ),
)


def _base(output_stride: int, block: int) -> int:
    return int(max(1, 2 ** (block + 1) // output_stride))


MULTI_GRID_RATES = (
    Misconception(
        lambda output_stride, block, unit_rates: list(unit_rates),
        "You return the unit rates. They are factors, and multiply the block's own rate.",
    ),
    Misconception(
        lambda output_stride, block, unit_rates: [_base(output_stride, block) + unit for unit in unit_rates],
        "You add. Multi-grid multiplies the block's rate by the unit rates.",
    ),
    Misconception(
        lambda output_stride, block, unit_rates: [_base(output_stride, 4) * unit for unit in unit_rates],
        "You give every block the rate of block 4. It doubles from block to block, as the strides would have.",
    ),
    Misconception(
        lambda output_stride, block, unit_rates: [_base(output_stride, block)] * len(unit_rates),
        "You leave the unit rates out: each residual unit has its own factor.",
    ),
    Misconception(
        lambda output_stride, block, unit_rates: [2 ** (block + 1) // output_stride * unit for unit in unit_rates],
        "Your rate falls to 0 where the block still strides. It is never below 1.",
    ),
)
