"""Exercises of chapter 8, the decoder and separable convolution: references, inputs, judges and hints."""

import math

import torch
from torch import Tensor, nn

from deeplab_lesson.exercises import mistakes08
from deeplab_lesson.exercises.draw import Draw
from deeplab_lesson.exercises.exercise import Chapter, Exercise, WrongAnswer
from deeplab_lesson.exercises.judging import same_tensor, whole_number, whole_numbers

# ---- separable convolution -----------------------------------------------------------------------------------------


def count_weights(kernel_size: int, in_channels: int, out_channels: int) -> int:
    """Return the number of weights of a depthwise separable convolution, biases left out.

    A kernel_size x kernel_size kernel on each of the in_channels, then a 1x1 to out_channels.
    """
    depthwise = kernel_size**2 * in_channels
    pointwise = in_channels * out_channels
    return depthwise + pointwise


def _draw_count_weights(draw: Draw) -> tuple[int, int, int]:
    return draw.choice((3, 5, 7)), draw.choice((2, 3, 8, 24)), draw.choice((4, 16, 32, 256))


def _judge_count_weights(answer: object, kernel_size: int, in_channels: int, out_channels: int) -> None:
    with torch.device("meta"):
        depthwise = nn.Conv2d(in_channels, in_channels, kernel_size, groups=in_channels, bias=False)
        pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    parts = depthwise.weight.numel(), pointwise.weight.numel()
    if whole_number(answer) != sum(parts):
        raise WrongAnswer(
            f"you return {whole_number(answer):,}; the depthwise step has {parts[0]:,} weights and the pointwise step "
            f"{parts[1]:,}: {sum(parts):,}"
        )


def merge_kernels(depthwise: torch.Tensor, pointwise: torch.Tensor) -> torch.Tensor:
    """Return the weight [N, C, k, k] of the one convolution that does both steps at once.

    `depthwise` [C, k, k] has a kernel for each input channel, and `pointwise` [N, C] mixes
    what they give. Nothing stands between.
    """
    return pointwise[:, :, None, None] * depthwise


def _draw_merge_kernels(draw: Draw) -> tuple[Tensor, Tensor]:
    channels = draw.whole(2, 3)
    return draw.tensor(channels, 2, 2), draw.tensor(channels + 1, channels)


def _judge_merge_kernels(answer: object, depthwise: Tensor, pointwise: Tensor) -> None:
    channels, size, _ = depthwise.shape
    columns = []  # what the two steps make of a picture with a single 1, one at each place of the kernel
    for channel in range(channels):
        for place in range(size * size):
            point = torch.zeros(channels, size * size)
            point[channel, place] = 1
            seen = (point * depthwise.flatten(1)).sum(dim=1)  # [C], the depthwise step at one position
            columns.append((pointwise * seen).sum(dim=1))
    same_tensor(answer, torch.stack(columns, dim=1).reshape(len(pointwise), channels, size, size))


# ---- decoder -------------------------------------------------------------------------------------------------------


def joined_shape(height: int, width: int, low_level: int, encoded: int) -> list[int]:
    """Return [channels, rows, columns] of the map that the decoder's first 3x3 reads.

    For a height x width picture it joins `low_level` channels at stride 4, where each of
    two strides of 2 rounds up, and `encoded` channels, enlarged.
    """
    rows, columns = -(-height // 4), -(-width // 4)
    return [low_level + encoded, rows, columns]


def _draw_joined_shape(draw: Draw) -> tuple[int, int, int, int]:
    height, width = draw.whole(33, 520), draw.whole(33, 520)
    return height, width, draw.choice((8, 16, 32, 48)), draw.choice((64, 256))


def _judge_joined_shape(answer: object, height: int, width: int, low_level: int, encoded: int) -> None:
    rows, columns = (math.ceil(math.ceil(side / 2) / 2) for side in (height, width))
    seen, due = whole_numbers(answer, 3), [low_level + encoded, rows, columns]
    if seen != due:
        raise WrongAnswer(
            f"you return {seen}; after two strides of 2 the low-level map is {rows} x {columns}, the encoder's map "
            f"is enlarged to that, and {low_level} and {encoded} channels stand side by side: {due}"
        )


def fuse(low_level: torch.Tensor, encoded: torch.Tensor, reduce: torch.Tensor) -> torch.Tensor:
    """Return what the decoder joins, [R + D, H, W]: the low-level channels come first.

    `low_level` [C, H, W] goes through a 1x1 convolution `reduce` [R, C] and ReLU. (BatchNorm
    is left out here.) `encoded` [D, h, w] is enlarged bilinearly to H x W, with samples in
    the middle of their cells.
    """
    reduced = torch.relu(torch.einsum("rc,chw->rhw", reduce, low_level))
    size = low_level.shape[1:]
    enlarged = torch.nn.functional.interpolate(encoded[None], size=size, mode="bilinear", align_corners=False)
    return torch.cat([reduced, enlarged[0]])


def _draw_fuse(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    channels, rows, columns = draw.whole(2, 3), draw.whole(2, 3), draw.whole(2, 3)
    low_level = draw.tensor(channels, 2 * rows, 2 * columns - draw.whole(0, 1))
    reduce = draw.tensor(2, channels)
    reduce[0] = -reduce[1]  # one of the two is negative wherever the other is not: ReLU has something to do
    return low_level, draw.tensor(draw.whole(1, 2), rows, columns), reduce


def _judge_fuse(answer: object, low_level: Tensor, encoded: Tensor, reduce: Tensor) -> None:
    _, height, width = low_level.shape
    down, across = _linear(encoded.shape[1], height), _linear(encoded.shape[2], width)
    reduced = (reduce @ low_level.flatten(1)).clamp(min=0).view(len(reduce), height, width)
    same_tensor(answer, torch.cat([reduced, down @ encoded @ across.T]))


def coarse_labels(labels: torch.Tensor, num_classes: int, stride: int) -> torch.Tensor:
    """Return what a map of shares of the given stride says of labels [H, W]: ids [H, W], int64.

    The share of each class in each stride x stride cell is enlarged bilinearly to H x W, with
    samples in the middle of their cells. The largest wins. Both sides are multiples of the
    stride, and there is no void.
    """
    one_hot = torch.nn.functional.one_hot(labels, num_classes).permute(2, 0, 1).float()  # [C, H, W]
    shares = torch.nn.functional.avg_pool2d(one_hot[None], stride)  # [1, C, H / stride, W / stride]
    enlarged = torch.nn.functional.interpolate(shares, size=labels.shape, mode="bilinear", align_corners=False)
    return enlarged[0].argmax(dim=0)


def _draw_coarse_labels(draw: Draw) -> tuple[Tensor, int, int]:
    stride, classes = draw.choice((2, 3, 4)), draw.whole(3, 4)
    rows, columns = draw.whole(2, 3) * stride, draw.whole(2, 3) * stride
    ids = torch.tensor(draw.whole_numbers(rows * columns, 0, classes - 1)).view(rows, columns)
    ids[0, 0], ids[-1, -1] = 0, classes - 1
    return ids, classes, stride


def _judge_coarse_labels(answer: object, labels: Tensor, num_classes: int, stride: int) -> None:
    height, width = labels.shape
    down, across = _linear(height // stride, height), _linear(width // stride, width)
    cells = labels.reshape(height // stride, stride, width // stride, stride)
    scores = torch.stack(
        [down @ (cells == each).double().mean(dim=(1, 3)).float() @ across.T for each in range(num_classes)]
    )
    if not isinstance(answer, Tensor) or answer.is_floating_point() or answer.shape != labels.shape:
        same_tensor(answer, scores.argmax(dim=0))
        raise WrongAnswer("you return floating numbers where class ids (int64) are due")
    if int(answer.min()) < 0 or int(answer.max()) >= num_classes:
        raise WrongAnswer(f"you return ids from {int(answer.min())} to {int(answer.max())} for {num_classes} classes")
    chosen = scores.gather(0, answer.long()[None])[0]
    worse = chosen < scores.amax(dim=0) - 1e-4  # of classes that are level, any will do
    if worse.any():
        row, column = worse.nonzero()[0].tolist()
        best = int(scores[:, row, column].argmax())
        raise WrongAnswer(
            f"at {(row, column)} you say class {int(answer[row, column])}, whose enlarged share is "
            f"{float(chosen[row, column]):.3f}; class {best} has {float(scores[best, row, column]):.3f}"
        )


def _linear(small: int, large: int) -> Tensor:
    """The weights [large, small] of linear enlargement, with samples in the middle of their cells."""
    weights = torch.zeros(large, small)
    for place in range(large):
        center = min(max((place + 0.5) * small / large - 0.5, 0.0), small - 1.0)
        first = min(int(center), small - 2)
        weights[place, first] = 1 - (center - first)
        weights[place, first + 1] = center - first
    return weights


CHAPTER = Chapter(
    8,
    "the decoder",
    (
        Exercise(
            "separable.count_weights",
            count_weights,
            _draw_count_weights,
            _judge_count_weights,
            mistakes08.COUNT_WEIGHTS,
            (
                "Count the two steps one by one. How many channels does each kernel of the first step read?",
                "The first has k² weights for each input channel, the second one weight for each pair of channels.",
            ),
        ),
        Exercise(
            "decoder.joined_shape",
            joined_shape,
            _draw_joined_shape,
            _judge_joined_shape,
            mistakes08.JOINED_SHAPE,
            (
                "At which stride does the decoder work? And what does joining do to the channels?",
                "A stride of 2 on a side of 513 leaves 257: it rounds up. `-(-a // b)` divides and rounds up.",
            ),
        ),
        Exercise(
            "separable.merge_kernels",
            merge_kernels,
            _draw_merge_kernels,
            _judge_merge_kernels,
            mistakes08.MERGE_KERNELS,
            (
                "Output n hears channel c through that channel's kernel, times one number.",
                "W[n, c, i, j] = pointwise[n, c] * depthwise[c, i, j]: let broadcasting make the pairs.",
            ),
        ),
        Exercise(
            "decoder.fuse",
            fuse,
            _draw_fuse,
            _judge_fuse,
            mistakes08.FUSE,
            (
                "Three steps: reduce and ReLU, enlarge to the low-level map's size, join along the channels.",
                "A 1x1 convolution is a matrix over the channels. `F.interpolate` needs a batch: encoded[None].",
            ),
        ),
        Exercise(
            "decoder.coarse_labels",
            coarse_labels,
            _draw_coarse_labels,
            _judge_coarse_labels,
            mistakes08.COARSE_LABELS,
            (
                "Ids are names and cannot be averaged. Which maps of 0 and 1 can?",
                "`F.one_hot`, `F.avg_pool2d`, `F.interpolate`, `argmax`, in this order.",
            ),
        ),
    ),
)
