"""The modified aligned Xception-65: depthwise separable convolutions throughout, made dense by their rates."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from deeplab_lesson.layers.dilation import DilationPlan

XCEPTION_STRIDES: Mapping[str, int] = {"stem": 4, "entry2": 2, "entry3": 2, "middle": 1, "exit1": 2, "exit2": 1}
MIDDLE_UNITS = 16  # v3+ section 3.2 and figure 4; the original Xception has 8
BATCHNORM_EPS = 1e-3  # authors' code: xception_arg_scope; the heads have 1e-5
INITIAL_STD = 0.09  # authors' code: xception_arg_scope, truncated normal


class SeparableConvolution(nn.Sequential):
    """A 3x3 on each channel (depthwise, with stride and rate), then a 1x1 over all of them (pointwise).

    Args:
        relu_inside: False: ReLU, depthwise, BatchNorm, pointwise, BatchNorm.
            True: depthwise, BatchNorm, ReLU, pointwise, BatchNorm, ReLU.

    The padding is the rate on every side, also where the convolution strides: position (0, 0) of the output is
    then centered on position (0, 0) of the input whatever the size. TensorFlow's "SAME" shifts even sizes by one.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, rate: int = 1, relu_inside: bool = False
    ) -> None:
        depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=rate, dilation=rate, groups=in_channels, bias=False
        )
        between = nn.BatchNorm2d(in_channels, eps=BATCHNORM_EPS)
        pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        last = nn.BatchNorm2d(out_channels, eps=BATCHNORM_EPS)
        if relu_inside:
            super().__init__(depthwise, between, nn.ReLU(inplace=True), pointwise, last, nn.ReLU(inplace=True))
        else:  # not in place: the block's shortcut and the decoder read the same map before its ReLU
            super().__init__(nn.ReLU(), depthwise, between, pointwise, last)


class XceptionBlock(nn.Module):
    """Three separable convolutions, the third one strided, and a shortcut around them.

    All three read the grid in front of the block, so they share one rate even where the stride is removed.

    Args:
        shortcut: "convolution" (a strided 1x1 and BatchNorm), "identity" or "none".
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        shortcut: str,
        stride: int = 1,
        rate: int = 1,
        relu_inside: bool = False,
    ) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1 = SeparableConvolution(in_channels, first, rate=rate, relu_inside=relu_inside)
        self.conv2 = SeparableConvolution(first, second, rate=rate, relu_inside=relu_inside)
        self.conv3 = SeparableConvolution(second, third, stride=stride, rate=rate, relu_inside=relu_inside)
        self.shortcut: nn.Module | None = None
        if shortcut == "identity":
            self.shortcut = nn.Identity()
        elif shortcut == "convolution":
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, third, 1, stride, bias=False), nn.BatchNorm2d(third, eps=BATCHNORM_EPS)
            )

    def start(self, x: Tensor) -> Tensor:
        """The first two convolutions, still at the input's stride."""
        middle: Tensor = self.conv2(self.conv1(x))
        return middle

    def finish(self, x: Tensor, middle: Tensor) -> Tensor:
        """The third convolution, and the sum with the shortcut."""
        out: Tensor = self.conv3(middle)
        return out if self.shortcut is None else out + self.shortcut(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(x, self.start(x))


def _convolution(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """One of the stem's two plain 3x3."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels, eps=BATCHNORM_EPS),
        nn.ReLU(inplace=True),
    )


class Xception65Trunk(nn.Module):
    """The modified aligned Xception-65 without its classifier, dense at the plan's output stride.

    The paper's text and the authors' code differ. By the text, BatchNorm and ReLU follow every 3x3 depthwise
    convolution, as in MobileNet, and are worth 0.75 points of ImageNet top-1 accuracy. The code of the published
    models has that ReLU in the last block only; elsewhere BatchNorm follows the depthwise convolution without one,
    and a ReLU stands before it, as in the original Xception. With `relu_after_depthwise=True` every block has the
    last one's order (that code's own switch, `activation_fn_in_separable_conv`). The parameters are the same.

    Args:
        plan: from `plan_dilation(output_stride, XCEPTION_STRIDES)`; 32, 16 or 8.
        relu_after_depthwise: False as in the authors' code, True as in the paper's text, in every block.

    There are no ImageNet weights to load: torchvision has no Xception.

    Source: Chen et al. 2018 (arXiv 1802.02611), section 3.2 and figure 4; authors' code, deeplab/core/xception.py.
    """

    channels = (256, 256, 728, 2048)

    def __init__(self, plan: DilationPlan, *, relu_after_depthwise: bool = False) -> None:
        super().__init__()

        def block(stage: str, in_channels: int, widths: Sequence[int], shortcut: str, stride: int) -> XceptionBlock:
            relu_inside = relu_after_depthwise or stage == "exit2"
            return XceptionBlock(
                in_channels,
                widths,
                shortcut=shortcut,
                stride=stride,
                rate=plan[stage].rate_before,
                relu_inside=relu_inside,
            )

        self.conv1 = _convolution(3, 32, stride=2)
        self.conv2 = _convolution(32, 64, stride=1)
        self.entry1 = block("stem", 64, (128, 128, 128), "convolution", 2)
        self.entry2 = block("entry2", 128, (256, 256, 256), "convolution", plan["entry2"].stride)
        self.entry3 = block("entry3", 256, (728, 728, 728), "convolution", plan["entry3"].stride)
        middle = [block("middle", 728, (728, 728, 728), "identity", 1) for _ in range(MIDDLE_UNITS)]
        self.middle = nn.Sequential(*middle)
        self.exit1 = block("exit1", 728, (728, 1024, 1024), "convolution", plan["exit1"].stride)
        self.exit2 = block("exit2", 1024, (1536, 1536, 2048), "none", 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=INITIAL_STD, a=-2 * INITIAL_STD, b=2 * INITIAL_STD)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the decoder's low-level features, then the outputs of entry block 2, middle flow and exit flow.

        The low-level features are those of entry block 2 before it strides and before its sum: the pointwise
        convolution of its second separable one, as in the authors' code (`separable_conv2_pointwise`).

        Shapes, for a 513x513 image at output stride 16:
            [N, 256, 129, 129], [N, 256, 65, 65], [N, 728, 33, 33], [N, 2048, 33, 33]
        """
        x = self.conv1(images)  # [N, 32, 257, 257]
        x = self.conv2(x)  # [N, 64, 257, 257]
        x = self.entry1(x)  # [N, 128, 129, 129]
        low_level = self.entry2.start(x)  # [N, 256, 129, 129]
        c3 = self.entry2.finish(x, low_level)  # [N, 256, 65, 65]
        x = self.entry3(c3)  # [N, 728, 33, 33]
        c4 = self.middle(x)  # [N, 728, 33, 33]
        x = self.exit1(c4)  # [N, 1024, 33, 33]
        c5 = self.exit2(x)  # [N, 2048, 33, 33]
        return low_level, c3, c4, c5
