"""What readers get wrong in the exercises of chapter 8, as functions, each with what to tell them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.exercises.exercise import Misconception

COUNT_WEIGHTS = (
    Misconception(
        lambda kernel_size, in_channels, out_channels: kernel_size**2 * in_channels * out_channels,
        "That is the plain convolution: a kernel for each pair of channels.",
    ),
    Misconception(
        lambda kernel_size, in_channels, out_channels: kernel_size**2 * in_channels,
        "That is the depthwise step alone. The pointwise step, which mixes the channels, is missing.",
    ),
    Misconception(
        lambda kernel_size, in_channels, out_channels: in_channels * out_channels,
        "That is the pointwise step alone.",
    ),
    Misconception(
        lambda kernel_size, in_channels, out_channels: kernel_size**2 * out_channels + in_channels * out_channels,
        "You give each output channel a kernel. The depthwise step comes first: it has one for each input channel.",
    ),
    Misconception(
        lambda kernel_size, in_channels, out_channels: kernel_size * in_channels + in_channels * out_channels,
        "A kernel has kernel_size rows *and* columns.",
    ),
)


JOINED_SHAPE = (
    Misconception(
        lambda height, width, low_level, encoded: [low_level + encoded, height // 4, width // 4],
        "You round down. A convolution of stride 2 that is padded rounds up: 513 becomes 257, then 129.",
    ),
    Misconception(
        lambda height, width, low_level, encoded: [encoded, -(-height // 4), -(-width // 4)],
        "You leave out the low-level channels. They are joined to the others, not added to them.",
    ),
    Misconception(
        lambda height, width, low_level, encoded: [low_level + encoded, -(-height // 16), -(-width // 16)],
        "That is the encoder's size at output stride 16. The decoder works at stride 4.",
    ),
    Misconception(
        lambda height, width, low_level, encoded: [low_level + encoded, 4 * -(-height // 16), 4 * -(-width // 16)],
        "You enlarge by exactly 4: 33 would become 132. The decoder enlarges to the low-level map's size, 129.",
    ),
    Misconception(
        lambda height, width, low_level, encoded: [low_level + encoded, height, width],
        "The decoder works at stride 4. Only its scores are enlarged to the picture's size.",
    ),
)


MERGE_KERNELS = (
    Misconception(
        lambda depthwise, pointwise: torch.einsum("nc,cij->nij", pointwise, depthwise),
        "You sum over the input channels. That sum is the convolution's own work: the kernel keeps them apart.",
    ),
    Misconception(
        lambda depthwise, pointwise: (pointwise[:, :, None, None] * depthwise).transpose(0, 1),
        "A weight has the output channels first: [N, C, k, k].",
    ),
    Misconception(
        lambda depthwise, pointwise: (pointwise[:, :, None, None] * depthwise).flip(2, 3),
        "You turn the kernels round. What deep learning calls convolution does not.",
    ),
    Misconception(
        lambda depthwise, pointwise: pointwise[:, :, None, None] + depthwise,
        "You add the two steps' weights. The second step multiplies what the first one gave.",
    ),
)


def _fused(
    low_level: Tensor,
    encoded: Tensor,
    reduce: Tensor,
    *,
    relu: bool = True,
    mode: str = "bilinear",
    corners: bool = False,
    low_first: bool = True,
) -> Tensor:
    reduced = torch.einsum("rc,chw->rhw", reduce, low_level)
    align = corners if mode == "bilinear" else None
    enlarged = F.interpolate(encoded[None], size=low_level.shape[1:], mode=mode, align_corners=align)[0]
    parts = [reduced.relu() if relu else reduced, enlarged]
    return torch.cat(parts if low_first else parts[::-1])


FUSE = (
    Misconception(
        lambda low_level, encoded, reduce: _fused(low_level, encoded, reduce, relu=False),
        "ReLU is missing behind the 1x1 convolution.",
    ),
    Misconception(
        lambda low_level, encoded, reduce: _fused(low_level, encoded, reduce, corners=True),
        "You enlarge with align_corners=True: the two maps do not lie on each other, by up to half a cell.",
    ),
    Misconception(
        lambda low_level, encoded, reduce: _fused(low_level, encoded, reduce, mode="nearest"),
        "You repeat positions (nearest, which is F.interpolate's default). The enlargement is bilinear.",
    ),
    Misconception(
        lambda low_level, encoded, reduce: _fused(low_level, encoded, reduce, low_first=False),
        "The low-level channels come first. Trained weights expect them there.",
    ),
    Misconception(
        lambda low_level, encoded, reduce: _fused(low_level, encoded, torch.eye(len(low_level))),
        "You join the low-level channels as they are. The 1x1 convolution comes first.",
    ),
)


def _enlarged_shares(labels: Tensor, num_classes: int, stride: int, mode: str, corners: bool | None) -> Tensor:
    one_hot = F.one_hot(labels, num_classes).permute(2, 0, 1).float()
    shares = F.avg_pool2d(one_hot[None], stride)
    return F.interpolate(shares, size=labels.shape, mode=mode, align_corners=corners)[0].argmax(dim=0)


def _averaged_ids(labels: Tensor, num_classes: int, stride: int) -> Tensor:
    means = F.avg_pool2d(labels[None, None].float(), stride)
    return F.interpolate(means, size=labels.shape, mode="bilinear")[0, 0].round().long()


COARSE_LABELS = (
    Misconception(
        lambda labels, num_classes, stride: _enlarged_shares(labels, num_classes, stride, "nearest", None),
        "You repeat the cells. Enlarge the shares bilinearly before the largest is taken.",
    ),
    Misconception(
        lambda labels, num_classes, stride: _enlarged_shares(labels, num_classes, stride, "bilinear", True),
        "You enlarge with align_corners=True: a share belongs to the middle of its cell.",
    ),
    Misconception(
        _averaged_ids,
        "You average class ids. They are names: between 1 and 3 there is no 2.",
    ),
    Misconception(
        lambda labels, num_classes, stride: (
            labels[::stride, ::stride].repeat_interleave(stride, 0).repeat_interleave(stride, 1)
        ),
        "You take one pixel of each cell. Take the share of each class in it.",
    ),
)
