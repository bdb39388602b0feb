"""The kernels of the fully connected CRF, each an operator on values [N, H, W, C] (labels last).

The smoothness kernel sees positions only, exp(-|p_i - p_j|^2 / 2 sigma_xy^2); the appearance kernel sees positions and
colors, exp(-|p_i - p_j|^2 / 2 sigma_xy^2 - |I_i - I_j|^2 / 2 sigma_rgb^2). All of them count the pixel itself, and are
normalized: a pixel's weights sum to one ("after"), or nearly so ("symmetric").
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.crf.bilateral_grid import BilateralGrid
from deeplab_lesson.crf.checks import check_normalization
from deeplab_lesson.crf.lattice import PermutohedralLattice
from deeplab_lesson.crf.parameters import CRFParameters

CUT = 4  # standard deviations; what is left out weighs 6e-5
ROWS_AT_ONCE = 64  # of an image, so that what is between two convolutions stays in the cache


class Kernel:
    """A linear operator on values [N, H, W, C]."""

    def __call__(self, values: Tensor) -> Tensor:
        """Return K values, differentiable in the values."""
        raise NotImplementedError

    def add_to(self, base: Tensor, values: Tensor, factor: Tensor, out: Tensor) -> None:
        """Write base + factor K values into `out` (which may be `base`), for inference: without a gradient, and
        where the kernel can, without a large table of its own."""
        torch.addcmul(base, self(values), factor, out=out)


def position_features(height: int, width: int, like: Tensor) -> Tensor:
    """Return (x, y) of every pixel, [1, H, W, 2], in the type and on the device of `like`."""
    rows = torch.arange(height, device=like.device, dtype=like.dtype)
    columns = torch.arange(width, device=like.device, dtype=like.dtype)
    return torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)], -1)[None]


def labels_last(logits: Tensor) -> Tensor:
    """Turn [N, C, H, W] into [N, H, W, C], in float32 at least: a pixel's row is read at once."""
    return logits.permute(0, 2, 3, 1).to(torch.promote_types(logits.dtype, torch.float32)).contiguous()


def kernel_features(scores: Tensor, images: Tensor, settings: CRFParameters) -> tuple[Tensor, Tensor]:
    """Return what the appearance kernel [N, H, W, 2 + channels] and the smoothness kernel [N, H, W, 2] compare, in
    units of sigma, for scores [N, H, W, C] and images [N, channels, H, W]."""
    count, height, width = scores.shape[:3]
    positions = position_features(height, width, scores).expand(count, -1, -1, -1)
    colors = images.permute(0, 2, 3, 1).to(scores) / settings.appearance_sigma_rgb
    appearance = torch.cat([positions / settings.appearance_sigma_xy, colors], -1)
    return appearance, positions / settings.smoothness_sigma_xy


def build_kernels(scores: Tensor, images: Tensor, settings: CRFParameters) -> tuple[Kernel, Kernel]:
    """Build the appearance and the smoothness kernel for scores [N, H, W, C] and images [N, channels, H, W]."""
    features, near = kernel_features(scores, images, settings)
    appearance: dict[str, Callable[[Tensor, str], Kernel]] = {
        "lattice": functools.partial(SparseKernel, PermutohedralLattice),
        "grid": functools.partial(SparseKernel, BilateralGrid),
        "attention": AttentionKernel,
        "exact": ExactKernel,
    }
    smoothness: Kernel
    if settings.smoothness == "exact":
        height, width = scores.shape[1:3]
        smoothness = SmoothnessConvolution(height, width, settings.smoothness_sigma_xy, scores, settings.normalization)
    else:
        smoothness = SparseKernel(PermutohedralLattice, near, settings.normalization)
    return appearance[settings.appearance](features, settings.normalization), smoothness


class SmoothnessConvolution(Kernel):
    """The smoothness kernel as two one-dimensional convolutions: exact but for its cut at four sigma."""

    def __init__(self, height: int, width: int, sigma_xy: float, like: Tensor, normalization: str) -> None:
        self.radius = min(max(1, round(CUT * sigma_xy)), max(height, width))  # no pixels are farther apart
        distance = torch.arange(-self.radius, self.radius + 1, device=like.device, dtype=like.dtype)
        self.taps = torch.exp(-0.5 * (distance / sigma_xy) ** 2)
        scale = (1 / (self._row_sums(height)[:, None] * self._row_sums(width)))[..., None]  # [H, W, 1]
        self.before: Tensor | None = scale.sqrt() if normalization == "symmetric" else None
        self.after = scale if self.before is None else self.before

    def _row_sums(self, length: int) -> Tensor:
        ones = self.taps.new_ones(1, 1, length)
        return F.conv1d(ones, self.taps.view(1, 1, -1), padding=self.radius)[0, 0]

    def __call__(self, values: Tensor) -> Tensor:
        return self._rows(values, 0, values.shape[1]) * self.after

    def add_to(self, base: Tensor, values: Tensor, factor: Tensor, out: Tensor) -> None:
        for first in range(0, values.shape[1], ROWS_AT_ONCE):
            last = min(first + ROWS_AT_ONCE, values.shape[1])
            scale = factor * self.after[first:last]
            torch.addcmul(base[:, first:last], self._rows(values, first, last), scale, out=out[:, first:last])

    def _rows(self, values: Tensor, first: int, last: int) -> Tensor:
        """Return the rows from `first` up to `last` of what `after` still has to scale."""
        height, classes, r = values.shape[1], values.shape[-1], self.radius
        seen = slice(max(0, first - r), min(height, last + r))
        x = values[:, seen] if self.before is None else values[:, seen] * self.before[seen]
        missing = (max(0, r - first), max(0, last + r - height))
        x = F.pad(x, (0, 0, 0, 0, *missing)) if any(missing) else x
        x = x.permute(0, 3, 1, 2)  # [N, C, rows, W] in channels-last order: a view, not a copy
        x = F.conv2d(x, self.taps.view(1, 1, -1, 1).repeat(classes, 1, 1, 1), groups=classes)
        x = F.conv2d(x, self.taps.view(1, 1, 1, -1).repeat(classes, 1, 1, 1), padding=(0, r), groups=classes)
        return x.permute(0, 2, 3, 1)


class SparseKernel(Kernel):
    """A kernel on the lattice or on the grid, with one part of it for each image of the batch."""

    def __init__(
        self, operator: type[PermutohedralLattice | BilateralGrid], features: Tensor, normalization: str
    ) -> None:
        images, height, width, d = features.shape
        group = torch.arange(images, device=features.device).repeat_interleave(height * width)
        self.operator = operator(features.reshape(-1, d), group if images > 1 else None, normalization=normalization)

    def __call__(self, values: Tensor) -> Tensor:
        return self.operator(values.reshape(-1, values.shape[-1])).view_as(values)

    def add_to(self, base: Tensor, values: Tensor, factor: Tensor, out: Tensor) -> None:
        flat = [tensor.view(-1, tensor.shape[-1]) for tensor in (base, values, out)]
        self.operator.add_to(flat[0], flat[1], factor, flat[2])


class ExactKernel(Kernel):
    """Every pair of pixels, a block of rows at a time: O((HW)^2) time, O(HW) memory. It is differentiable throughout.

    Args:
        features: float [N, H, W, d], in units of sigma.
        block: how many entries of the matrix are held at once.
    """

    def __init__(self, features: Tensor, normalization: str, block: int = 4_000_000) -> None:
        check_normalization(normalization)
        self.points = features.flatten(1, 2)  # [N, P, d]
        self.rows = max(1, block // self.points.shape[1])
        row_sums = self._times(self.points.new_ones(*self.points.shape[:2], 1))  # [N, P, 1]
        self.before: Tensor | None = row_sums.rsqrt() if normalization == "symmetric" else None
        self.after = 1 / row_sums if self.before is None else self.before

    def _times(self, values: Tensor) -> Tensor:
        blocks = [self._weights(rows) @ values for rows in torch.split(self.points, self.rows, dim=1)]
        return torch.cat(blocks, dim=1)

    def _weights(self, rows: Tensor) -> Tensor:
        distance = torch.cdist(rows, self.points, compute_mode="donot_use_mm_for_euclid_dist")  # [N, rows, P]
        return torch.exp(-0.5 * distance.square())

    def __call__(self, values: Tensor) -> Tensor:
        flat = values.flatten(1, 2)
        flat = flat if self.before is None else flat * self.before
        return (self._times(flat) * self.after).view_as(values)


class AttentionKernel(Kernel):
    """The exact kernel, normalized "after", as the attention of a transformer.

    With f_i . f_j - |f_j|^2 / 2 as scores, softmax over j gives exp(-|f_i - f_j|^2 / 2) / D_i, since |f_i|^2 is the
    same for all j: queries are [f, 1], keys [f, -|f|^2 / 2], values the marginals. Scores of several thousands cancel
    here: outside of autocast and in float32 without TF32 or better (bfloat16 is off by 0.8).
    """

    def __init__(self, features: Tensor, normalization: str) -> None:
        if normalization != "after":
            raise ValueError(
                f'normalization={normalization!r}: attention divides each row by its sum, which is "after"; '
                'take normalization="after", or appearance="lattice"'
            )
        points = features.flatten(1, 2)
        points = points - points.mean(dim=1, keepdim=True)  # differences stay, scores shrink
        self.queries = F.pad(points, (0, 1), value=1)[:, None]  # [N, 1 head, P, d + 1]
        self.keys = torch.cat([points, -0.5 * points.square().sum(-1, keepdim=True)], -1)[:, None]

    def __call__(self, values: Tensor) -> Tensor:
        flat = values.flatten(1, 2)[:, None]
        width = max(self.queries.shape[-1], flat.shape[-1])  # one width for all three allows O(P) memory
        padded = [F.pad(x, (0, width - x.shape[-1])) for x in (self.queries, self.keys, flat)]
        with torch.autocast(values.device.type, enabled=False):
            messages = F.scaled_dot_product_attention(padded[0], padded[1], padded[2], scale=1.0)
        return messages[:, 0, :, : values.shape[-1]].reshape(values.shape)
