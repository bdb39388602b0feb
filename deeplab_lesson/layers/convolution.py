"""Convolution, BatchNorm, ReLU: the brick of every head, plain or depthwise separable."""

from torch import nn

from deeplab_lesson.layers.checks import check_whole


class ConvBNReLU(nn.Sequential):
    """A convolution without bias, BatchNorm, ReLU; padded so that the map keeps its size at stride 1.

    Raises:
        ValueError: an argument that is no whole number from 1, or channels that the groups do not divide.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, rate: int = 1, groups: int = 1
    ) -> None:
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
            check_whole(name, value)
        check_whole("kernel_size", kernel_size)
        check_whole("rate", rate)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"in_channels={in_channels}, out_channels={out_channels}, groups={groups}: allowed are numbers of "
                "channels that the groups divide; take groups=1, or groups=in_channels for a depthwise convolution"
            )
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
