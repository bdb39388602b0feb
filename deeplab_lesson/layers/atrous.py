"""Atrous convolution written three ways, and what its holes cost.

The three functions compute `torch.nn.functional.conv1d` or `conv2d` with `dilation=rate`, in 1-D for weights
[out, in, k] and in 2-D for weights [out, in, kh, kw]. They are for reading: layers use PyTorch's own.

Source: v1 section 3.1 (arXiv 1412.7062); v2 equation 1 and section 3.1 (arXiv 1606.00915).
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.layers.checks import check_alike, check_holds_numbers, check_size, check_whole


def effective_kernel_size(kernel_size: int, rate: int) -> int:
    """Return how many pixels a kernel spans along an axis: k + (k - 1)(rate - 1). It still reads only k of them.

    >>> effective_kernel_size(3, 2)
    5
    """
    check_whole("kernel_size", kernel_size)
    check_whole("rate", rate)
    return kernel_size + (kernel_size - 1) * (rate - 1)


def atrous_by_sum(inputs: Tensor, weight: Tensor, rate: int = 1, *, stride: int = 1, padding: int = 0) -> Tensor:
    """The definition, tap by tap: y[i] = sum over k of x[stride * i + rate * k] w[k].

    Shapes, in 2-D:
        inputs  [N, C_in, H, W]
        weight  [C_out, C_in, kh, kw]
        output  [N, C_out, (H + 2 padding - (kh - 1) rate - 1) // stride + 1, the same for W]

    Raises:
        TypeError: inputs and weight that are not floats of one type.
        ValueError: ranks that do not fit, numbers that are not whole, or a kernel that spans more than the padded
            input.
    """
    padded, sizes = _pad(inputs, weight, rate, stride, padding)
    counts = [(size - 1) // stride + 1 for size in sizes]
    output = inputs.new_zeros(inputs.shape[0], weight.shape[0], *counts)
    for tap in itertools.product(*(range(size) for size in weight.shape[2:])):
        read = [slice(rate * k, rate * k + stride * (n - 1) + 1, stride) for k, n in zip(tap, counts, strict=True)]
        output = output + torch.einsum("nc...,oc->no...", padded[_last_axes(read)], weight[_last_axes(tap)])
    return output


def atrous_by_zero_inserted_kernel(
    inputs: Tensor, weight: Tensor, rate: int = 1, *, stride: int = 1, padding: int = 0
) -> Tensor:
    """An ordinary convolution whose kernel has rate - 1 zeros between its weights. Shapes as in `atrous_by_sum`."""
    _pad(inputs, weight, rate, stride, padding)
    spans = [effective_kernel_size(size, rate) for size in weight.shape[2:]]
    kernel = weight.new_zeros(*weight.shape[:2], *spans)
    kernel[_last_axes([slice(None, None, rate)] * len(spans))] = weight
    convolve = F.conv1d if len(spans) == 1 else F.conv2d
    return convolve(inputs, kernel, stride=stride, padding=padding)


def atrous_by_phases(inputs: Tensor, weight: Tensor, rate: int = 1, *, stride: int = 1, padding: int = 0) -> Tensor:
    """Ordinary convolutions of the sub-grids x[phase::rate], put back in each other's gaps: rate² of them in 2-D.

    An output position reads only positions of its own phase, so that the phases never meet; this is why a stack
    of equal rates leaves a grid (see `gridding_coverage`). Shapes as in `atrous_by_sum`.
    """
    padded, sizes = _pad(inputs, weight, rate, stride, padding)
    convolve = F.conv1d if len(sizes) == 1 else F.conv2d
    dense = inputs.new_zeros(inputs.shape[0], weight.shape[0], *sizes)  # at stride 1
    for phase in itertools.product(*(range(min(rate, size)) for size in sizes)):
        grid = _last_axes(slice(first, None, rate) for first in phase)
        dense[grid] = convolve(padded[grid], weight)
    return dense[_last_axes([slice(None, None, stride)] * len(sizes))]


def _pad(inputs: Tensor, weight: Tensor, rate: int, stride: int, padding: int) -> tuple[Tensor, list[int]]:
    """Pad with zeros, and say how many positions the kernel has along each axis at stride 1."""
    _check(inputs, weight)
    check_whole("stride", stride)
    check_whole("padding", padding, least=0)
    axes = weight.ndim - 2
    padded = F.pad(inputs, [padding, padding] * axes)
    spans = [effective_kernel_size(size, rate) for size in weight.shape[2:]]
    sizes = [length - span + 1 for length, span in zip(padded.shape[2:], spans, strict=True)]
    if min(sizes) < 1:
        raise ValueError(
            f"a kernel that spans {' x '.join(map(str, spans))} does not fit into an input of "
            f"{' x '.join(map(str, padded.shape[2:]))} with its padding: pad more or take a lower rate"
        )
    return padded, sizes


def _check(inputs: Tensor, weight: Tensor) -> None:
    axes = weight.ndim - 2
    if axes not in (1, 2) or inputs.ndim != weight.ndim or inputs.shape[1] != weight.shape[1]:
        raise ValueError(
            f"inputs {list(inputs.shape)} and weight {list(weight.shape)} do not fit: allowed are [N, C, L] with "
            "[out, C, k], and [N, C, H, W] with [out, C, kh, kw]"
        )
    if not inputs.numel() or not weight.numel():
        raise ValueError(
            f"inputs {list(inputs.shape)} or weight {list(weight.shape)} are empty: allowed are sizes from 1"
        )
    if not inputs.is_floating_point() or not weight.is_floating_point():
        raise TypeError(f"inputs are {inputs.dtype} and the weight {weight.dtype}: allowed are floats; use .float()")
    check_alike("inputs", inputs, "the weight", weight)
    check_holds_numbers("inputs", inputs)


def _last_axes(indices: Iterable[Any]) -> tuple[Any, ...]:
    return (..., *indices)


def gridding_coverage(rates: Sequence[int], kernel_size: int = 3) -> Tensor:
    """Count the paths from each input position to one output position of a stack of square atrous convolutions.

    Returns int64 [extent, extent], the output position in the middle; 0 where the stack has a hole. Rates
    (2, 2, 2) touch 49 of 13 x 13 positions, (1, 2, 3) all 169.
    """
    line = torch.ones(1, dtype=torch.int64)
    for rate in rates:
        longer = line.new_zeros(len(line) + effective_kernel_size(kernel_size, rate) - 1)
        for tap in range(kernel_size):
            longer[rate * tap : rate * tap + len(line)] += line
        line = longer
    return line[:, None] * line[None, :]  # the two axes choose their taps independently


def valid_weight_counts(size: tuple[int, int], rate: int, kernel_size: int = 3) -> Tensor:
    """Count the taps of a centered kernel that fall inside a map, for each position of the map.

    Returns int64 [H, W]; the other taps read padding. At rates as large as the map, a 3x3 kernel is down to its
    middle weight almost everywhere, that is a 1x1 kernel: v3 section 3.3 and figure 4.

    Raises:
        ValueError: an even kernel, which has no middle tap, or numbers that are not whole.
    """
    check_size("size", size)
    check_whole("rate", rate)
    check_whole("kernel_size", kernel_size)
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size}: allowed are odd numbers, whose kernels have a middle tap")
    reach = rate * torch.arange(-(kernel_size // 2), kernel_size // 2 + 1)
    lines = []
    for length in size:
        read = torch.arange(length)[:, None] + reach  # [length, kernel_size]
        lines.append(((read >= 0) & (read < length)).sum(dim=1))
    return lines[0][:, None] * lines[1][None, :]
