"""DeepLab v3+: v3's encoder, and a decoder that brings the boundaries back.

Source: Chen, Zhu, Papandreou, Schroff, Adam 2018 (arXiv 1802.02611).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deeplab_lesson.backbones.mobilenet import MobileNetV3Trunk
from deeplab_lesson.backbones.resnet import MiniTrunk, ResNetTrunk
from deeplab_lesson.backbones.xception import Xception65Trunk
from deeplab_lesson.layers.aspp import ASPP
from deeplab_lesson.layers.checks import check_whole
from deeplab_lesson.layers.convolution import conv_bn_relu
from deeplab_lesson.layers.dilation import ASPP_RATES_AT_16, plan_dilation
from deeplab_lesson.layers.resize import resize_features
from deeplab_lesson.models.base import SegmentationModel, check_images

HEAD_CHANNELS = 256  # v3 section 3.3: every branch of the pyramid, and the decoder's 3x3 (v3+ table 2)
LOW_LEVEL_CHANNELS = 48  # v3+ table 1: best of 8, 16, 32, 48, 64
DECODER_CONVS = 2  # v3+ table 2: two 3x3 convolutions are better than one or three
MINI_HEAD_CHANNELS = 48
MINI_LOW_LEVEL_CHANNELS = 16
MINI_ASPP_RATES_AT_16 = (
    2,
    4,
    6,
)  # a 128-pixel picture is 8x8 at output stride 16: 6, 12, 18 would miss the map


class Decoder(nn.Module):
    """v3+'s decoder: the encoder's map at stride 4, beside few low-level channels, through two 3x3 convolutions.

    Args:
        low_level_in: channels of the trunk's map at stride 4.
        low_level_channels: what a 1x1 convolution leaves of them.
        channels: of the encoder's map and of the output.
        convs: number of 3x3 convolutions.
        separable: make these depthwise separable.

    Shapes, for a 513x513 image:
        low_level  [N, 256, 129, 129]   output of ResNet's layer1, at stride 4
        encoded    [N, 256,  33,  33]   output of ASPP
        output     [N, 256, 129, 129]

    Source: v3+ section 4.1; tables 1 (48 channels) and 2 (two 3x3 of 256).
    """

    def __init__(
        self,
        low_level_in: int,
        low_level_channels: int,
        channels: int,
        *,
        convs: int = DECODER_CONVS,
        separable: bool = False,
    ) -> None:
        super().__init__()
        _check_at_least_one(low_level_channels=low_level_channels, decoder_convs=convs)
        self.reduce = conv_bn_relu(low_level_in, low_level_channels, kernel_size=1)
        widths = [low_level_channels + channels] + [channels] * (convs - 1)
        self.refine = nn.Sequential(*(conv_bn_relu(width, channels, 3, separable=separable) for width in widths))

    def forward(self, low_level: Tensor, encoded: Tensor) -> Tensor:
        reduced = self.reduce(low_level)  # [N, 48, 129, 129]
        enlarged = resize_features(encoded, reduced.shape[2:])  # [N, 256, 129, 129]
        refined: Tensor = self.refine(torch.cat([reduced, enlarged], dim=1))  # [N, 304, ...] -> [N, 256, 129, 129]
        return refined


class DeepLabV3Plus(SegmentationModel):
    """Trunk, ASPP, decoder, 1x1 classifier, bilinear to the image's size.

    Args:
        backbone: returns four feature maps; the first (stride 4) feeds the decoder, the last feeds ASPP.
        aspp_rates: of the three 3x3 branches, for the trunk's output stride.
        decoder: False leaves it out: the classifier reads ASPP and its logits are enlarged at once, as in v3.
        separable: depthwise separable 3x3 convolutions in ASPP and decoder (v3+ section 3.1).
        low_level_channels, decoder_convs: see `Decoder`.

    Raises:
        ValueError: a decoder without low-level channels or without convolutions.
    """

    def __init__(
        self,
        backbone: ResNetTrunk | MiniTrunk | Xception65Trunk | MobileNetV3Trunk,
        num_classes: int,
        aspp_rates: Sequence[int],
        *,
        decoder: bool = True,
        separable: bool = False,
        image_pooling: bool = True,
        head_channels: int = HEAD_CHANNELS,
        low_level_channels: int = LOW_LEVEL_CHANNELS,
        decoder_convs: int = DECODER_CONVS,
    ) -> None:
        super().__init__()
        check_whole("num_classes", num_classes, least=2)
        self.backbone = backbone
        self.aspp = ASPP(
            backbone.channels[-1], aspp_rates, head_channels, image_pooling=image_pooling, separable=separable
        )
        self.decoder = (
            Decoder(backbone.channels[0], low_level_channels, head_channels, convs=decoder_convs, separable=separable)
            if decoder
            else None
        )
        self.classifier = nn.Conv2d(head_channels, num_classes, kernel_size=1)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        check_images(images)  # [N, 3, 513, 513]
        low_level, _, _, features = self.backbone(images)  # [N, 256, 129, 129], [N, 2048, 33, 33]
        x = self.aspp(features)  # [N, 256, 33, 33]
        if self.decoder is not None:
            x = self.decoder(low_level, x)  # [N, 256, 129, 129]
        logits = self.classifier(x)  # [N, 21, 129, 129]
        return {"out": resize_features(logits, images.shape[2:])}  # [N, 21, 513, 513]


def deeplabv3plus_resnet(
    depth: int,
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    decoder: bool = True,
    separable: bool = False,
    image_pooling: bool = True,
    aspp_rates_at_16: Sequence[int] = ASPP_RATES_AT_16,
    low_level_channels: int = LOW_LEVEL_CHANNELS,
    decoder_convs: int = DECODER_CONVS,
) -> DeepLabV3Plus:
    """v3+ on torchvision's ResNet of the given depth, at output stride 16 unless another is asked for."""
    plan = plan_dilation(16 if output_stride is None else output_stride, aspp_rates_at_16=aspp_rates_at_16)
    trunk = ResNetTrunk(depth, plan, pretrained=pretrained_backbone)
    return DeepLabV3Plus(
        trunk,
        num_classes,
        plan.aspp_rates,
        decoder=decoder,
        separable=separable,
        image_pooling=image_pooling,
        low_level_channels=low_level_channels,
        decoder_convs=decoder_convs,
    )


def deeplabv3plus_mini(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    decoder: bool = True,
    separable: bool = False,
    image_pooling: bool = True,
    aspp_rates_at_16: Sequence[int] = MINI_ASPP_RATES_AT_16,
    low_level_channels: int = MINI_LOW_LEVEL_CHANNELS,
    decoder_convs: int = DECODER_CONVS,
) -> DeepLabV3Plus:
    """v3+ under a million parameters: the same parts, narrow, for small pictures on a CPU."""
    if pretrained_backbone:
        raise ValueError(
            "pretrained_backbone=True: there are no ImageNet weights for the mini trunk; "
            "allowed with the resnet models; take pretrained_backbone=False or deeplabv3plus_resnet18"
        )
    plan = plan_dilation(16 if output_stride is None else output_stride, aspp_rates_at_16=aspp_rates_at_16)
    return DeepLabV3Plus(
        MiniTrunk(plan),
        num_classes,
        plan.aspp_rates,
        decoder=decoder,
        separable=separable,
        image_pooling=image_pooling,
        head_channels=MINI_HEAD_CHANNELS,
        low_level_channels=low_level_channels,
        decoder_convs=decoder_convs,
    )


def _check_at_least_one(**numbers: int) -> None:
    for name, number in numbers.items():
        if type(number) is not int or number < 1:
            raise ValueError(
                f"{name}={number!r}: allowed are whole numbers from 1; decoder=False leaves out the whole decoder"
            )
