"""Atrous spatial pyramid pooling, in the form of DeepLab v3."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deeplab_lesson.layers.checks import check_features
from deeplab_lesson.layers.convolution import ConvBNReLU, conv_bn_relu
from deeplab_lesson.layers.one_call import kept_as_one_call


class ImagePooling(nn.Module):
    """The image-level branch of v3's ASPP: the mean feature, put back at every position.

    Shapes, for a 513x513 image at output stride 16:
        input   [N, 2048, 33, 33]
        output  [N,  256, 33, 33]

    Raises:
        ValueError: in training with one image a process, where BatchNorm has one value a channel; features as in ASPP.

    Source: Chen et al. 2017 (arXiv 1706.05587), section 3.3.
    """

    def __init__(self, in_channels: int, out_channels: int = 256) -> None:
        super().__init__()
        self.project = ConvBNReLU(in_channels, out_channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        check_readable(features, next(self.parameters(), None))
        check_more_than_one_image(features, self.project.normalizes_batches)
        mean = features.mean(dim=(2, 3), keepdim=True)  # [N, 2048, 1, 1]
        projected: Tensor = self.project(mean)  # [N, 256, 1, 1]
        return projected.expand(-1, -1, features.shape[2], features.shape[3])  # [N, 256, 33, 33]


check_readable = kept_as_one_call(check_features)


@kept_as_one_call
def check_more_than_one_image(features: Tensor, normalizes_batches: bool) -> None:
    """Refuse a batch of one where BatchNorm would normalize a single value a channel."""
    if normalizes_batches and features.shape[0] == 1:
        raise ValueError(
            "image pooling normalizes one value a channel over the batch, and this batch has one image: "
            "use a batch of two or more (drop_last=True), model.eval(), or image_pooling=False"
        )


class ASPP(nn.Module):
    """v3's pyramid: a 1x1, three 3x3 at growing rates and the image mean, side by side, then mixed by a 1x1.

    Shapes, for a 513x513 image at output stride 16:
        input   [N, 2048, 33, 33]
        output  [N,  256, 33, 33]

    Args:
        rates: of the 3x3 branches; (6, 12, 18) at output stride 16, doubled at 8. See `plan_dilation`.
        dropout: applied to the output; 0.1 in the authors' code (keep probability 0.9).

    Raises:
        TypeError: features that are no floats, or of another type than the weights.
        ValueError: features of another rank, number of channels or device, or empty; rates that are no whole numbers, a
            dropout outside of 0 to 1.

    Source: Chen et al. 2017 (arXiv 1706.05587), section 3.3 and figure 5.
    """

    def __init__(
        self,
        in_channels: int,
        rates: Sequence[int] = (6, 12, 18),
        out_channels: int = 256,
        *,
        image_pooling: bool = True,
        separable: bool = False,
        dropout: float = 0.1,
    ) -> None:
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout={dropout}: allowed are probabilities from 0 to 1, such as 0.1")
        super().__init__()
        self.branches = nn.ModuleList([conv_bn_relu(in_channels, out_channels, kernel_size=1)])
        for rate in rates:
            self.branches.append(conv_bn_relu(in_channels, out_channels, 3, rate, separable=separable))
        if image_pooling:
            self.branches.append(ImagePooling(in_channels, out_channels))
        self.project = conv_bn_relu(len(self.branches) * out_channels, out_channels, kernel_size=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        check_readable(features, next(self.parameters(), None))  # of the 1x1 branch
        pyramid = torch.cat([branch(features) for branch in self.branches], dim=1)  # [N, 1280, 33, 33]
        mixed: Tensor = self.dropout(self.project(pyramid))  # [N, 256, 33, 33]
        return mixed
