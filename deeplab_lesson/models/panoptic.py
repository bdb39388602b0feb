"""Panoptic-DeepLab: v3+'s parts twice, for what a pixel is and for which object it belongs to.

Source: Cheng, Collins, Zhu, Liu, Huang, Adam, Chen 2020 (arXiv 1911.10194). What the heads are trained on, and
how objects are read off them, is in `panoptic_instances`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deeplab_lesson.backbones.imagenet import refuse_pretrained_mini
from deeplab_lesson.backbones.resnet import MiniTrunk, ResNetTrunk
from deeplab_lesson.layers.aspp import ASPP
from deeplab_lesson.layers.convolution import conv_bn_relu
from deeplab_lesson.layers.dilation import ASPP_RATES_AT_16, plan_dilation
from deeplab_lesson.layers.resize import resize_features
from deeplab_lesson.models.base import SegmentationModel, check_images
from deeplab_lesson.models.deeplabv3plus import MINI_ASPP_RATES_AT_16

# Widths: the authors' configurations (deeplab2, configs/*/panoptic_deeplab).
ASPP_CHANNELS = 256  # of both branches
SEMANTIC_LOW_LEVEL = (64, 32)  # of the stride-8 and the stride-4 map
INSTANCE_LOW_LEVEL = (32, 16)
SEMANTIC_CHANNELS = 256  # of decoder and head
INSTANCE_CHANNELS = 128  # of the decoder
INSTANCE_HEAD_CHANNELS = 32
KERNEL_SIZE = 5  # section 3: one depthwise separable 5x5 in each stage of the decoders
DECODER_STRIDE = 4
MINI_CHANNELS = 48
MINI_LOW_LEVEL = (16, 16)


class Upsampling(nn.Module):
    """One stage of a decoder: the map twice as large, beside few low-level channels, through one 5x5.

    Shapes, for the first stage of the semantic branch and a 513x513 image at output stride 16:
        x          [N, 256, 33, 33]
        low_level  [N, 512, 65, 65]
        output     [N, 256, 65, 65]
    """

    def __init__(self, in_channels: int, low_level_in: int, low_level_channels: int, channels: int) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(low_level_in, low_level_channels, kernel_size=1)
        self.mix = conv_bn_relu(in_channels + low_level_channels, channels, KERNEL_SIZE, separable=True)

    def forward(self, x: Tensor, low_level: Tensor) -> Tensor:
        reduced = self.reduce(low_level)  # [N, 64, 65, 65]
        enlarged = resize_features(x, reduced.shape[2:])  # [N, 256, 65, 65]
        mixed: Tensor = self.mix(torch.cat([enlarged, reduced], dim=1))  # [N, 320, ...] -> [N, 256, 65, 65]
        return mixed


class Branch(nn.Module):
    """A pyramid and a decoder of its own: one for the classes, one for the objects.

    Shapes, for the semantic branch on ResNet-50 and a 513x513 image at output stride 16:
        c2, c3, c5  [N, 256, 129, 129], [N, 512, 65, 65], [N, 2048, 33, 33]
        output      [N, 256, 129, 129]
    """

    def __init__(
        self,
        pyramid: ASPP,
        pyramid_channels: int,
        trunk_channels: Sequence[int],
        low_level_channels: tuple[int, int],
        channels: int,
    ) -> None:
        super().__init__()
        self.aspp = pyramid
        self.to_stride8 = Upsampling(pyramid_channels, trunk_channels[1], low_level_channels[0], channels)
        self.to_stride4 = Upsampling(channels, trunk_channels[0], low_level_channels[1], channels)

    def forward(self, c2: Tensor, c3: Tensor, c5: Tensor) -> Tensor:
        x = self.aspp(c5)  # [N, 256, 33, 33]
        x = self.to_stride8(x, c3)  # [N, 256, 65, 65]
        out: Tensor = self.to_stride4(x, c2)  # [N, 256, 129, 129]
        return out


def _head(in_channels: int, channels: int, outputs: int) -> nn.Sequential:
    """A separable 5x5, and a 1x1 that predicts."""
    return nn.Sequential(
        conv_bn_relu(in_channels, channels, KERNEL_SIZE, separable=True),
        nn.Conv2d(channels, outputs, kernel_size=1),
    )


class PanopticDeepLab(SegmentationModel):
    """One trunk, two branches, three heads: classes, centers of objects, offsets to them.

    `forward` gives the logits of the classes; `forward_heads` gives

        "out"     [N, C, H, W]  logits
        "center"  [N, 1, H, W]  heat map: 1 at the center of an object
        "offset"  [N, 2, H, W]  how many of the image's pixels (down, right) to the center of the pixel's object

    The offset head counts in its own pixels, of stride 4; the output is in the image's.

    Args:
        backbone: returns four feature maps; the last feeds the pyramids, the first two (strides 4 and 8) the decoders.
        aspp_rates: of the three 3x3 branches of each pyramid, for the trunk's output stride.
        separable: split the 3x3 of the pyramids too, as the authors do; the 5x5 of decoders and heads always are.
        low_level_channels, decoder_channels: of the semantic and of the instance branch.
    """

    def __init__(
        self,
        backbone: ResNetTrunk | MiniTrunk,
        num_classes: int,
        aspp_rates: Sequence[int],
        *,
        image_pooling: bool = True,
        separable: bool = True,
        aspp_channels: int = ASPP_CHANNELS,
        low_level_channels: tuple[tuple[int, int], tuple[int, int]] = (SEMANTIC_LOW_LEVEL, INSTANCE_LOW_LEVEL),
        decoder_channels: tuple[int, int] = (SEMANTIC_CHANNELS, INSTANCE_CHANNELS),
        instance_head_channels: int = INSTANCE_HEAD_CHANNELS,
    ) -> None:
        super().__init__()
        widths = backbone.channels
        semantic, instance = decoder_channels

        def pyramid() -> ASPP:
            return ASPP(widths[3], aspp_rates, aspp_channels, image_pooling=image_pooling, separable=separable)

        self.backbone = backbone
        self.semantic = Branch(pyramid(), aspp_channels, widths, low_level_channels[0], semantic)
        self.instance = Branch(pyramid(), aspp_channels, widths, low_level_channels[1], instance)
        self.classifier = _head(semantic, semantic, num_classes)
        self.center = _head(instance, instance_head_channels, 1)
        self.offset = _head(instance, instance_head_channels, 2)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        check_images(images)  # [N, 3, 513, 513]
        size = images.shape[2:]
        c2, c3, _, c5 = self.backbone(images)  # [N, 256, 129, 129], [N, 512, 65, 65], [N, 2048, 33, 33]
        what = self.semantic(c2, c3, c5)  # [N, 256, 129, 129]
        which = self.instance(c2, c3, c5)  # [N, 128, 129, 129]
        logits = self.classifier(what)  # [N, 21, 129, 129]
        center = self.center(which)  # [N, 1, 129, 129]
        offset = DECODER_STRIDE * self.offset(which)  # [N, 2, 129, 129]
        return {
            "out": resize_features(logits, size),  # [N, 21, 513, 513]
            "center": resize_features(center, size),  # [N, 1, 513, 513]
            "offset": resize_features(offset, size),  # [N, 2, 513, 513]
        }


def panoptic_deeplab_resnet50(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    image_pooling: bool = True,
    separable: bool = True,
    aspp_rates_at_16: Sequence[int] = ASPP_RATES_AT_16,
) -> PanopticDeepLab:
    """Panoptic-DeepLab on ResNet-50, at output stride 16 unless 32, 8 or 4 is asked for."""
    plan = plan_dilation(16 if output_stride is None else output_stride, aspp_rates_at_16=aspp_rates_at_16)
    trunk = ResNetTrunk(50, plan, pretrained=pretrained_backbone)
    return PanopticDeepLab(trunk, num_classes, plan.aspp_rates, image_pooling=image_pooling, separable=separable)


def panoptic_deeplab_mini(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    image_pooling: bool = True,
    separable: bool = True,
    aspp_rates_at_16: Sequence[int] = MINI_ASPP_RATES_AT_16,
) -> PanopticDeepLab:
    """Panoptic-DeepLab under a million parameters: the same parts, narrow, for small pictures on a CPU."""
    refuse_pretrained_mini(pretrained_backbone, "panoptic_deeplab_resnet50")
    plan = plan_dilation(16 if output_stride is None else output_stride, aspp_rates_at_16=aspp_rates_at_16)
    return PanopticDeepLab(
        MiniTrunk(plan),
        num_classes,
        plan.aspp_rates,
        image_pooling=image_pooling,
        separable=separable,
        aspp_channels=MINI_CHANNELS,
        low_level_channels=(MINI_LOW_LEVEL, MINI_LOW_LEVEL),
        decoder_channels=(MINI_CHANNELS, MINI_CHANNELS),
    )
