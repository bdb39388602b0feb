"""The receptive field measured: which pixels have an influence on an output position?"""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from deeplab_lesson.receptive_field.checks import check_position, one_image
from deeplab_lesson.receptive_field.closed_form import ReceptiveField
from deeplab_lesson.tracing import choose_output, first_in_channels

SMALL = 1e-12  # the image's value: a residual block doubles it at most, and ReLU6 or softmax must not saturate
SPANS = (
    32,
    -32,
    16,
    -16,
    8,
    -8,
    4,
    -4,
    2,
    -2,
    1,
    -1,
)  # positions between the two fields whose distance gives the stride


def gradient_receptive_field(
    module: nn.Module,
    input_size: tuple[int, int],
    *,
    position: tuple[int, int] | None = None,
    output: int | str | None = None,
    in_channels: int | None = None,
) -> ReceptiveField:
    """Measure the receptive field of one output position by backpropagation.

    A copy of the module gets random positive weights, zero biases and neutral BatchNorm, computes in float64, and
    takes means where the module takes maxima (max-pooling would show one path of many): no gradient can vanish or
    cancel. What the gradient of the output position touches is the field.

    Along an axis where the field reaches the border of the image, it may go on: its size is infinite there, which
    is also what the closed form says of an image-level branch. To measure one axis of a large network, let the
    other be short: `input_size=(1100, 64)`.

    Args:
        input_size: larger than the field by two output strides or more.
        position: (row, column) of the output; None is the middle.
        output, in_channels: see `receptive_field`.

    Raises:
        ValueError: the image has no room to move the field, so that its stride cannot be seen, or
            only padding is read; a gradient that is not finite; or as in `receptive_field`.
    """
    with one_image(module, input_size, in_channels, output):
        probe = _positive_copy(module)
        image = torch.full((1, in_channels or first_in_channels(module), *input_size), SMALL, dtype=torch.float64)
        image.requires_grad_()
        with _MeanForMax():
            result = choose_output(probe(image), output).sum(dim=(0, 1))
    check_position(position, *result.shape)
    row, column = position or (result.shape[0] // 2, result.shape[1] // 2)
    here = _touched(result[row, column], image)
    axes: list[tuple[float, float, float]] = []  # size, stride, offset
    for axis, at in enumerate((row, column)):
        first, last = here[axis]
        if first == 0 or last == input_size[axis] - 1:
            axes.append((math.inf, math.inf, -math.inf))
        else:
            stride = _stride(result, image, (row, column), axis, here[axis])
            axes.append((last - first + 1, stride, first - stride * at))
    height, width = axes
    return ReceptiveField((height[0], width[0]), (height[1], width[1]), (height[2], width[2]))


def _touched(value: Tensor, image: Tensor) -> list[tuple[int, int]]:
    """The first and last row, and the first and last column, with a gradient."""
    (gradient,) = torch.autograd.grad(value, image, retain_graph=True)
    if not gradient.isfinite().all():
        raise ValueError("the gradient is not finite: measure a part of the module")
    touched = (gradient[0] != 0).any(dim=0)
    if not touched.any():
        raise ValueError(
            f"the output position reads nothing of the {image.shape[2]}x{image.shape[3]} image, only padding: "
            "take a larger input_size"
        )
    ends = [torch.nonzero(touched.any(dim=1 - axis)).flatten().tolist() for axis in (0, 1)]
    return [(int(found[0]), int(found[-1])) for found in ends]


def _stride(result: Tensor, image: Tensor, position: tuple[int, int], axis: int, here: tuple[int, int]) -> float:
    """Compare with another position that reads as many pixels: one with fewer reads padding as well.

    Looking for pixel 0 would not be enough: a field of rate 2 has holes, and pixel 0 may be one of them. Where maps
    are enlarged the sizes differ a little, so that any position inside is the second choice.
    """
    second_choice = None
    for span in SPANS:
        other = list(position)
        other[axis] += span
        if 0 <= other[axis] < result.shape[axis]:
            begin, end = _touched(result[other[0], other[1]], image)[axis]
            stride = (begin - here[0]) / span
            if end - begin == here[1] - here[0]:
                return int(stride) if stride == int(stride) else stride
            if second_choice is None and begin > 0 and end < image.shape[2 + axis] - 1:
                second_choice = stride
    if second_choice is not None:
        return int(second_choice) if second_choice == int(second_choice) else second_choice
    raise ValueError(
        f"the field fits into the {image.shape[2]}x{image.shape[3]} image but cannot move in it: "
        "take a larger input_size"
    )


def _positive_copy(module: nn.Module) -> nn.Module:
    """Copy the module, in float64 and eval mode, with weights that let every path through; meta modules too."""
    probe = copy.deepcopy(module)
    if any(tensor.is_meta for tensor in module.parameters()):
        probe.to_empty(device="cpu")
        for tensor in itertools.chain(probe.parameters(), probe.buffers()):
            tensor.detach().fill_(1)
    probe = probe.cpu().double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for layer in probe.modules():
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if isinstance(bias, Tensor):
            bias.zero_()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.reset_running_stats()
            if layer.affine:
                nn.init.ones_(layer.weight)
        elif isinstance(weight, Tensor):
            shares = torch.rand(weight.shape, generator=generator, dtype=weight.dtype) + 0.5
            weight.copy_(shares / weight[0].numel())  # a mean, roughly: values keep their scale
    return probe


class _MeanForMax(TorchFunctionMode):
    """Means in the place of maxima, since a maximum passes the gradient of one winner only."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _REPLACEMENTS.get(func, func)(*args, **(kwargs or {}))


def _mean_pool(
    features: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, **options: Any
) -> Any:
    """Mean over the windows of a max-pooling; with return_indices=True beside the indices of the maxima."""
    pooled = torch._C._nn.max_pool2d_with_indices  # what both variants of PyTorch's function end in
    kernel, steps, pad, rate = (
        [value] * 2 if isinstance(value, int) else list(value)
        for value in (kernel_size, stride or kernel_size, padding, dilation)
    )
    maxima, indices = pooled(features.detach(), kernel, steps, pad, rate, options.get("ceil_mode", False))
    borders: list[int] = []
    for axis in (1, 0):  # F.pad begins with the last axis; on the far side as much as the last window needs
        end = (maxima.shape[2 + axis] - 1) * steps[axis] + (kernel[axis] - 1) * rate[axis] + 1
        borders += [pad[axis], max(pad[axis], end - features.shape[2 + axis] - pad[axis])]
    channels = features.shape[1]
    ones = features.new_full((channels, 1, *kernel), 1 / (kernel[0] * kernel[1]))
    means = F.conv2d(F.pad(features, borders), ones, stride=steps, dilation=rate, groups=channels)
    means = means[:, :, : maxima.shape[2], : maxima.shape[3]]
    return (means, indices) if options.get("return_indices") else means


def _spread(pooled: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, **options: Any) -> Tensor:
    """Unpooling to every position of the window in the place of the one that held the maximum."""
    size = F.max_unpool2d(pooled.detach(), indices, kernel_size, stride, **options).shape[2:]
    steps = [stride or kernel_size] * 2 if isinstance(stride or kernel_size, int) else list(stride or kernel_size)
    for axis in (0, 1):
        pooled = pooled.repeat_interleave(steps[axis], dim=2 + axis)
    height, width = (max(0, size[axis] - pooled.shape[2 + axis]) for axis in (0, 1))
    return F.pad(pooled, [0, width, 0, height])[:, :, : size[0], : size[1]]


def _mean_fusion(features: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    return features.mean(dim=dim, keepdim=keepdim)


_REPLACEMENTS: dict[Any, Callable[..., Any]] = {
    F.max_pool2d: _mean_pool,
    F.max_pool2d_with_indices: _mean_pool,
    F.max_unpool2d: _spread,
    torch.amax: _mean_fusion,
    Tensor.amax: _mean_fusion,
    torch.maximum: lambda left, right: (left + right) / 2,
}
