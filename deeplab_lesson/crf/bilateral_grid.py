"""The bilateral grid: filtering in feature space with one cell for each pixel, the step before the lattice."""

import torch
from torch import Tensor

from deeplab_lesson.crf.checks import check_normalization
from deeplab_lesson.crf.splat_blur_slice import SplatBlurSlice

MOST_KEY_BITS = 62  # of an int64


class BilateralGrid(SplatBlurSlice):
    """The normalized Gaussian kernel on a grid of cells, each pixel in the nearest one.

    Two blurs of [1/4, 1/2, 1/4] along each axis have variance 1 in cells, rounding to a cell and back adds 1/6. A cell
    of side sqrt(6/7) sigma makes that sigma^2. All pixels of a cell get the same message, which is what the lattice
    mends.

    Args, attributes, errors: as in PermutohedralLattice.

    Source: Chen, Paris, Durand 2007, "Real-time Edge-Aware Image Processing with the Bilateral Grid"; kept sparse.
    """

    def __init__(self, features: Tensor, group: Tensor | None = None, *, normalization: str = "symmetric") -> None:
        check_normalization(normalization)
        cells = torch.round(features / (6 / 7) ** 0.5).long()  # [P, d]
        cells = cells - cells.amin(0) + 1
        span = cells.amax(0) + 2  # an empty cell on either side, so that no blur runs into the next row
        groups = 1 if group is None else int(group.max()) + 1
        if float(span.double().log2().sum()) + groups.bit_length() > MOST_KEY_BITS:
            raise ValueError(
                f"the features spread over {span.tolist()} cells, too many to number: take a larger sigma "
                "(those of colors are in units of 0 to 255)"
            )
        strides = torch.cat([torch.ones_like(span[:1]), span[:-1].cumprod(0)])
        keys = (cells * strides).sum(1)
        if group is not None:
            keys = keys + group * (strides[-1] * span[-1])
        steps = [int(stride) for stride in strides for _ in range(2)]
        ones = features.new_ones(len(keys), 1)
        super().__init__(keys[:, None], ones, steps, center=0.5, side=0.25, normalization=normalization)
