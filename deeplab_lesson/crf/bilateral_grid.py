"""The bilateral grid: filtering in feature space with one cell for each pixel, the step before the lattice."""

import torch
from torch import Tensor

from deeplab_lesson.crf.checks import check_normalization, check_points
from deeplab_lesson.crf.splat_blur_slice import SplatBlurSlice, number_cells

FARTHEST = 2.0**31  # a cell's coordinate is rounded to a whole number


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
        check_points(features, group, FARTHEST)
        cells = torch.round(features.T / (6 / 7) ** 0.5).long()  # [d, P]
        cells = cells - cells.amin(1, keepdim=True) + 1
        span = cells.amax(1) + 2  # an empty cell on either side, so that no blur runs into the next row
        strides, keys = number_cells(cells, span, group)
        ones = features.new_ones(len(keys), 1)

        def neighbors(numbers: Tensor) -> list[Tensor]:
            return [numbers + stride for stride in strides for _ in range(2)]

        super().__init__(keys[:, None], ones, neighbors, center=0.5, side=0.25, normalization=normalization)
