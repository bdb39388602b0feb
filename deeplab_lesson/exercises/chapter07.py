"""Exercises of chapter 7, several scales at once: references, inputs, judges and hints."""

import torch
from torch import Tensor

from deeplab_lesson.exercises import mistakes07
from deeplab_lesson.exercises.draw import Draw
from deeplab_lesson.exercises.exercise import Chapter, Exercise, WrongAnswer
from deeplab_lesson.exercises.judging import same_tensor, whole_number, whole_numbers
from deeplab_lesson.layers.atrous import effective_kernel_size, valid_weight_counts
from deeplab_lesson.layers.dilation import plan_dilation
from deeplab_lesson.models.deeplabv3 import CASCADE_STRIDES

# ---- rates and maps ------------------------------------------------------------------------------------------------


def first_useless_rate(height: int, width: int, output_stride: int) -> int:
    """Return the smallest rate at which a 3x3 has only its middle weight left, at every position of the map.

    The map is that of a picture of `height` x `width` pixels. It begins with a position at pixel 0, and has one at
    every `output_stride`-th pixel along each side.
    """
    map_height = (height - 1) // output_stride + 1
    map_width = (width - 1) // output_stride + 1
    return max(map_height, map_width)


def _draw_useless_rate(draw: Draw) -> tuple[int, int, int]:
    stride = draw.choice((4, 8, 16))
    height, width = (stride * draw.whole(3, 9) + draw.choice((0, 1, draw.whole(1, stride - 1))) for _ in range(2))
    return height, width, stride


def _judge_useless_rate(answer: object, height: int, width: int, output_stride: int) -> None:
    rate = whole_number(answer)
    size = (len(range(0, height, output_stride)), len(range(0, width, output_stride)))
    found = next(each for each in range(1, sum(size)) if valid_weight_counts(size, each).max() == 1)
    if rate != found:
        most = int(valid_weight_counts(size, max(1, found - 1)).max())
        raise WrongAnswer(
            f"you return {rate}; the map has {size[0]} x {size[1]} positions: at rate {found} one weight is left "
            f"everywhere, at rate {found - 1} up to {most}"
        )


def field_of_pyramid(rates: list[int], output_stride: int, seen: int) -> int:
    """Return how many pixels, along one side, parallel 3x3 branches at these rates see together.

    They read a map whose positions are `output_stride` pixels apart and see `seen` pixels each.
    """
    return 2 * max(rates) * output_stride + seen


def _draw_field_of_pyramid(draw: Draw) -> tuple[list[int], int, int]:
    return draw.whole_numbers(draw.whole(2, 4), 1, 12), draw.choice((8, 16)), draw.whole(20, 300)


def _judge_field_of_pyramid(answer: object, rates: list[int], output_stride: int, seen: int) -> None:
    firsts_to_lasts = [(effective_kernel_size(3, rate) - 1) * output_stride for rate in rates]
    widest = max(firsts_to_lasts)
    if whole_number(answer) != widest + seen:
        raise WrongAnswer(
            f"you return {whole_number(answer)}; from the first tap to the last the branches have "
            f"{', '.join(map(str, firsts_to_lasts))} pixels, and the outer taps see {seen}: {widest + seen}"
        )


# ---- the branches --------------------------------------------------------------------------------------------------


def sum_of_branches(features: torch.Tensor, weights: torch.Tensor, rates: list[int]) -> torch.Tensor:
    """Return the scores of v2's pyramid on features [N, C, H, W]: one 3x3 for each rate, and the sum of all.

    `weights` is [branches, classes, C, 3, 3]. The scores have the height and width of the features.
    """
    scores = []
    for weight, rate in zip(weights, rates, strict=True):
        scores.append(torch.nn.functional.conv2d(features, weight, padding=rate, dilation=rate))
    return torch.stack(scores).sum(dim=0)


def _draw_sum_of_branches(draw: Draw) -> tuple[Tensor, Tensor, list[int]]:
    channels, branches = draw.whole(1, 2), draw.whole(2, 3)
    features = draw.tensor(2, channels, draw.whole(4, 5), draw.whole(5, 6))
    first = draw.whole(1, 2)
    rates = [first + step for step in range(branches)]
    return features, draw.tensor(branches, 2, channels, 3, 3), rates


def _judge_sum_of_branches(answer: object, features: Tensor, weights: Tensor, rates: list[int]) -> None:
    pictures, channels, height, width = features.shape
    scores = torch.zeros(pictures, weights.shape[1], height, width)
    for branch, rate in enumerate(rates):
        for row in range(height):
            for column in range(width):
                for i, j in torch.cartesian_prod(torch.arange(3), torch.arange(3)).tolist():
                    y, x = row + rate * (i - 1), column + rate * (j - 1)
                    if 0 <= y < height and 0 <= x < width:
                        taps = weights[branch, :, :channels, i, j]  # [classes, C]
                        scores[:, :, row, column] += features[:, :, y, x] @ taps.T
    same_tensor(answer, scores)


def image_pooling(features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return v3's image-level branch without BatchNorm and ReLU: the mean of features [N, C, H, W], mixed by a 1x1.

    `weight` is [out, C]. The answer is [N, out, H, W]: every position of a picture holds the same numbers.
    """
    mean = features.mean(dim=(2, 3))  # [N, C]
    mixed = mean @ weight.T  # [N, out]
    return mixed[:, :, None, None].expand(-1, -1, *features.shape[2:])


def _draw_image_pooling(draw: Draw) -> tuple[Tensor, Tensor]:
    channels = draw.whole(2, 3)
    features = draw.tensor(2, channels, draw.whole(2, 3), 2)
    features[0, 0] = features[0, 0].abs()  # the two pictures and their channels have other means
    return features, draw.tensor(draw.choice((1, 4)), channels)


def _judge_image_pooling(answer: object, features: Tensor, weight: Tensor) -> None:
    pictures, _, height, width = features.shape
    expected = torch.zeros(pictures, len(weight), height, width)
    for number in range(pictures):
        mean = torch.stack([channel.sum() / channel.numel() for channel in features[number]])
        expected[number] += torch.mv(weight, mean)[:, None, None]
    same_tensor(answer, expected)


# ---- multi-grid ----------------------------------------------------------------------------------------------------


def multi_grid_rates(output_stride: int, block: int, unit_rates: list[int]) -> list[int]:
    """Return the rates of the residual units in block 4, 5, 6 or 7 of v3's cascade.

    With all of its strides the network has output stride 32 behind block 4, 64 behind block 5, and so on. The block's
    own rate makes up for what is missing of that; multi-grid multiplies it by a unit rate for each residual unit.
    """
    rate = max(1, 2 ** (block + 1) // output_stride)
    return [rate * unit for unit in unit_rates]


def _draw_multi_grid(draw: Draw) -> tuple[int, int, list[int]]:
    return (
        draw.choice((8, 16, 32, 64, 128, 256)),
        draw.whole(4, 7),
        [draw.whole(1, 2), draw.whole(2, 3), draw.choice((1, 4))],
    )


def _judge_multi_grid(answer: object, output_stride: int, block: int, unit_rates: list[int]) -> None:
    stage = "layer4" if block == 4 else f"block{block}"
    plan = plan_dilation(output_stride, CASCADE_STRIDES).with_multi_grid(unit_rates, (stage,))
    expected = [int(rate) for rate in plan[stage].rates.split(", ")]
    if whole_numbers(answer, len(unit_rates)) != expected:
        raise WrongAnswer(
            f"you return {whole_numbers(answer)}; at output stride {output_stride} block {block} has the rate "
            f"{plan[stage].rate_after}, and its units {expected}"
        )


CHAPTER = Chapter(
    7,
    "several scales at once",
    (
        Exercise(
            "aspp.first_useless_rate",
            first_useless_rate,
            _draw_useless_rate,
            _judge_useless_rate,
            mistakes07.FIRST_USELESS_RATE,
            (
                "How many positions has the map? On a line of n of them, which two are farthest apart?",
                "A tap at distance r is outside everywhere as soon as r is the number of positions of the longer side.",
            ),
        ),
        Exercise(
            "aspp.field_of_pyramid",
            field_of_pyramid,
            _draw_field_of_pyramid,
            _judge_field_of_pyramid,
            mistakes07.FIELD_OF_PYRAMID,
            (
                "The branches stand side by side: which of them sees most?",
                "From the first tap to the last there are 2 * rate positions. What does the one at either end see?",
            ),
        ),
        Exercise(
            "aspp.sum_of_branches",
            sum_of_branches,
            _draw_sum_of_branches,
            _judge_sum_of_branches,
            mistakes07.SUM_OF_BRANCHES,
            (
                "`torch.nn.functional.conv2d` has a dilation. Which padding keeps the size of the map?",
                "A 3x3 at rate r reaches r positions to either side: padding=r.",
            ),
        ),
        Exercise(
            "aspp.image_pooling",
            image_pooling,
            _draw_image_pooling,
            _judge_image_pooling,
            mistakes07.IMAGE_POOLING,
            (
                "Three steps: the mean over which axes? the 1x1, which is a matrix; and back to every position.",
                "`features.mean(dim=(2, 3))` is [N, C], times weight.T is [N, out]; `[:, :, None, None].expand(...)`.",
            ),
        ),
        Exercise(
            "aspp.multi_grid_rates",
            multi_grid_rates,
            _draw_multi_grid,
            _judge_multi_grid,
            mistakes07.MULTI_GRID_RATES,
            (
                "At output stride 16, block 4 has rate 2 and block 5 has rate 4. Which rule gives that?",
                "The plain output stride behind block b is 2 ** (b + 1); the rate is that over the output stride, but "
                "not below 1.",
            ),
        ),
    ),
)
