"""From a classifier's fully connected layers to convolutions, and from large kernels to small ones."""

import torch
from torch import nn

from deeplab_lesson.layers.checks import check_whole


def convolution_from_linear(linear: nn.Linear, in_channels: int, kernel_size: int = 1) -> nn.Conv2d:
    """Turn a fully connected layer into the convolution that computes it at every position.

    A fully connected layer on a flattened map [in_channels, k, k] is a k x k convolution that fits in one place;
    on a vector it is a 1x1. VGG-16's first: [4096, 25088] becomes [4096, 512, 7, 7]. The weights are copied.

    Shapes:
        input   [N, in_channels, H, W]
        output  [N, linear.out_features, H - k + 1, W - k + 1]

    Raises:
        ValueError: a layer whose inputs are not in_channels * k * k.

    Source: Long, Shelhamer, Darrell 2015 (arXiv 1411.4038), section 3.1 and figure 2.
    """
    check_whole("in_channels", in_channels)
    check_whole("kernel_size", kernel_size)
    if linear.in_features != in_channels * kernel_size**2:
        raise ValueError(
            f"the layer has {linear.in_features} inputs, and a {kernel_size}x{kernel_size} kernel on {in_channels} "
            f"channels reads {in_channels * kernel_size**2}: give the size of the map that was flattened"
        )
    weight = linear.weight.detach().reshape(-1, in_channels, kernel_size, kernel_size)
    return _convolution(weight, linear.bias)


def subsample_kernel(
    convolution: nn.Conv2d, kernel_size: int, out_channels: int | None = None, in_channels: int | None = None
) -> nn.Conv2d:
    """Keep every s-th weight of a kernel, outermost ones included, and every t-th of its channels.

    A 7x7 keeps the positions 0, 2, 4, 6 as a 4x4 and 0, 3, 6 as a 3x3. At s times the rate, the small kernel reads
    the image exactly where its weights stood in the large one: 7x7 at rate 4, 4x4 at 8 and 3x3 at 12 span the same
    25 positions.

    Args:
        kernel_size: such that (large - 1) / (kernel_size - 1) is whole.
        out_channels: divides the kernel's; None keeps all.
        in_channels: the same, for those that it reads.

    Raises:
        ValueError: a size or a number of channels that even steps cannot give.

    Source: Chen et al. 2014 (arXiv 1412.7062), section 3.2 ("simple decimation") and 4.3.
    """
    large = convolution.kernel_size[0]
    allowed = [size for size in range(2, large + 1) if (large - 1) % (size - 1) == 0] or [1]
    if type(kernel_size) is not int or kernel_size not in allowed:
        raise ValueError(
            f"kernel_size={kernel_size!r}: even steps through a {large}x{large} kernel allow "
            f"{', '.join(map(str, allowed))}"
        )
    step = (large - 1) // max(1, kernel_size - 1) or 1
    weight = convolution.weight.detach()[:, :, ::step, ::step]
    rows = _channel_step(weight.shape[0], out_channels)
    columns = _channel_step(weight.shape[1], in_channels)
    bias = convolution.bias if convolution.bias is None else convolution.bias[::rows]
    return _convolution(weight[::rows, ::columns], bias)


def _channel_step(channels: int, kept: int | None) -> int:
    kept = channels if kept is None else kept
    if type(kept) is not int or kept < 1 or channels % kept:
        raise ValueError(f"{kept} of {channels} channels: allowed are divisors of {channels}")
    return channels // kept


def _convolution(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Conv2d:
    out_channels, in_channels, *kernel_size = weight.shape
    with torch.device("meta"):  # the initial weights would be thrown away
        convolution = nn.Conv2d(in_channels, out_channels, tuple(kernel_size), bias=bias is not None)  # type: ignore[arg-type]
    convolution.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
    if bias is not None:
        convolution.bias = nn.Parameter(bias.detach().clone())
    return convolution
