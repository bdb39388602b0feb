"""Convolution, BatchNorm, ReLU: the brick of every head, plain or depthwise separable."""

from torch import nn


class ConvBNReLU(nn.Sequential):
    """A convolution without bias, BatchNorm, ReLU; padded so that the map keeps its size at stride 1."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, rate: int = 1, groups: int = 1
    ) -> None:
        padding = rate * (kernel_size // 2)  # for an odd kernel: half of its extent (kernel_size - 1) * rate + 1
        super().__init__(
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                padding=padding,
                dilation=rate,
                groups=groups,
                bias=False,
            ),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    @property
    def normalizes_batches(self) -> bool:
        """True where BatchNorm uses the batch's own statistics: false in eval mode and when frozen."""
        return bool(self[1].training)


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int = 3, rate: int = 1, *, separable: bool = False
) -> nn.Sequential:
    """Build a convolution + BatchNorm + ReLU; `separable` splits it into depthwise and pointwise.

    The atrous rate of a separable convolution sits in its depthwise half (v3+ section 3.1, figure 3c), and
    BatchNorm and ReLU follow each half, as in the authors' TensorFlow code (`split_separable_conv2d`).
    """
    if not separable or kernel_size == 1:
        return ConvBNReLU(in_channels, out_channels, kernel_size, rate)
    depthwise = ConvBNReLU(in_channels, in_channels, kernel_size, rate, groups=in_channels)
    return nn.Sequential(depthwise, ConvBNReLU(in_channels, out_channels, 1))
