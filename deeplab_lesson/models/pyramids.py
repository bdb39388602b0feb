"""Two pyramids that are not DeepLab's: PSPNet pools one map in several grids, FPN joins the trunk's four maps.

Sources: Zhao et al. 2016, Pyramid Scene Parsing Network (arXiv 1612.01105), section 3.2 and figure 3; Lin et al.
2016, Feature Pyramid Networks (arXiv 1612.03144), section 3 and figure 3; FPN's segmentation head: Kirillov et
al. 2019, Panoptic Feature Pyramid Networks (arXiv 1901.02446), section 3 and figure 3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deeplab_lesson.backbones.imagenet import refuse_pretrained_mini
from deeplab_lesson.backbones.resnet import MiniTrunk, ResNetTrunk
from deeplab_lesson.layers.convolution import ConvBNReLU
from deeplab_lesson.layers.dilation import plan_dilation
from deeplab_lesson.layers.one_call import kept_as_one_call
from deeplab_lesson.layers.resize import repeat_features, resize_features
from deeplab_lesson.models.base import SegmentationModel, check_images

BINS = (1, 2, 3, 6)  # PSPNet section 3.2
PSP_CHANNELS = 512  # of the 3x3 behind the pyramid: the authors' code (psp_head, conv5_4)
PSP_DROPOUT = 0.1  # the authors' code, in front of the classifier
FPN_CHANNELS = 256  # FPN section 3: d = 256 for all extra layers
SEMANTIC_CHANNELS = 128  # Panoptic FPN section 3
GROUP_WIDTH = 4  # channels a group of GroupNorm: 32 groups of 128 channels
MINI_PSP_CHANNELS = 48
MINI_FPN_CHANNELS = 64
MINI_SEMANTIC_CHANNELS = 48


class PyramidPooling(nn.Module):
    """The map's mean in 1x1, 2x2, 3x3 and 6x6 grids, each reduced, enlarged and put behind the map itself.

    Shapes, for a 473x473 image at output stride 8:
        input   [N, 2048, 60, 60]
        output  [N, 4096, 60, 60]

    Raises:
        ValueError: in training with one image a process and a bin of 1: BatchNorm has one value a channel.
    """

    def __init__(self, in_channels: int, bins: Sequence[int] = BINS) -> None:
        super().__init__()
        if not bins or any(type(size) is not int or size < 1 for size in bins):
            raise ValueError(f"bins={bins!r}: allowed are whole numbers from 1, such as {BINS}")
        self.bins = tuple(bins)
        self.pools = nn.ModuleList(nn.AdaptiveAvgPool2d(size) for size in bins)
        self.reduce = nn.ModuleList(ConvBNReLU(in_channels, in_channels // len(bins), 1) for _ in bins)

    def forward(self, features: Tensor) -> Tensor:
        check_batch_for_bins(features, self.bins, self.reduce.training)
        pyramid = [features]
        for pool, reduce in zip(self.pools, self.reduce, strict=True):
            cells = reduce(pool(features))  # [N, 2048, 1, 1] -> [N, 512, 1, 1], 2x2, 3x3, 6x6
            pyramid.append(resize_features(cells, features.shape[2:]))  # [N, 512, 60, 60]
        return torch.cat(pyramid, dim=1)  # [N, 4096, 60, 60]


@kept_as_one_call
def check_batch_for_bins(features: Tensor, bins: Sequence[int], training: bool) -> None:
    """Refuse a batch of one where BatchNorm would normalize a single value a channel."""
    if training and features.shape[0] == 1 and 1 in bins:
        raise ValueError(
            "pyramid pooling with a bin of 1 normalizes one value a channel over the batch, and this batch has one "
            "image: use a batch of two or more (drop_last=True), model.eval(), or bins=(2, 3, 6)"
        )


class PSPNet(SegmentationModel):
    """Dense trunk, pyramid pooling, one 3x3, classifier. (The authors' auxiliary loss on C4 is left out.)"""

    def __init__(
        self, backbone: ResNetTrunk | MiniTrunk, num_classes: int, channels: int, bins: Sequence[int] = BINS
    ) -> None:
        super().__init__()
        self.backbone = backbone
        width = backbone.channels[-1]
        self.pyramid = PyramidPooling(width, bins)
        self.mix = ConvBNReLU(width + width // len(bins) * len(bins), channels, 3)
        self.dropout = nn.Dropout2d(PSP_DROPOUT)
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        check_images(images)  # [N, 3, 473, 473]
        *_, features = self.backbone(images)  # [N, 2048, 60, 60]
        pyramid = self.pyramid(features)  # [N, 4096, 60, 60]
        mixed = self.dropout(self.mix(pyramid))  # [N, 512, 60, 60]
        logits = self.classifier(mixed)  # [N, 21, 60, 60]
        return {"out": resize_features(logits, images.shape[2:])}  # [N, 21, 473, 473]


class FeaturePyramid(nn.Module):
    """Top-down path and lateral connections: every level gets the level above, doubled, by ADDITION.

    Section 3 has neither BatchNorm nor ReLU here. At an output stride below 32 the topmost maps have one size, and
    the step between them only adds.

    Shapes, for a 512x512 image at output stride 32:
        input   [N, 256, 128, 128], [N, 512, 64, 64], [N, 1024, 32, 32], [N, 2048, 16, 16]   C2 to C5
        output  [N, 256, 128, 128], [N, 256, 64, 64], [N, 256, 32, 32], [N, 256, 16, 16]   P2 to P5
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, kernel_size=1) for width in in_channels)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        c2, c3, c4, c5 = (lateral(maps[level]) for level, lateral in enumerate(self.lateral))  # 256 channels each
        m5 = c5  # [N, 256, 16, 16]
        m4 = c4 + repeat_features(m5, c4.shape[2:])  # [N, 256, 32, 32]
        m3 = c3 + repeat_features(m4, c3.shape[2:])  # [N, 256, 64, 64]
        m2 = c2 + repeat_features(m3, c2.shape[2:])  # [N, 256, 128, 128]
        return [smooth(merged) for smooth, merged in zip(self.smooth, (m2, m3, m4, m5), strict=True)]


class SemanticHead(nn.Module):
    """Panoptic FPN's semantic branch: every level climbs to stride 4 by 3x3 and bilinear steps, then all are summed.

    Shapes, for a 512x512 image:
        input   P2 to P5, as above
        output  [N, 128, 128, 128]
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.climbs = nn.ModuleList()
        for steps in (1, 1, 2, 3):  # P2 has nothing to climb and gets one convolution
            widths = (in_channels, *[channels] * (steps - 1))
            self.climbs.append(nn.Sequential(*(convolution_gn_relu(width, channels) for width in widths)))

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        climbed = []
        for level, climb in enumerate(self.climbs):
            x = pyramid[level]
            for step, convolution in enumerate(climb.children()):
                below = pyramid[max(0, level - 1 - step)]
                x = resize_features(convolution(x), below.shape[2:])  # from P5: [N, 128, 32, 32], 64x64, 128x128
            climbed.append(x)  # [N, 128, 128, 128]
        return torch.stack(climbed).sum(dim=0)  # [N, 128, 128, 128]


def convolution_gn_relu(in_channels: int, channels: int) -> nn.Sequential:
    """3x3, GroupNorm, ReLU; GroupNorm does not look at the other pictures of a batch, but at all of its own."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.GroupNorm(channels // GROUP_WIDTH, channels),
        nn.ReLU(inplace=True),
    )


class FPN(SegmentationModel):
    """Strided trunk, feature pyramid, semantic branch, classifier, bilinear by 4."""

    def __init__(
        self, backbone: ResNetTrunk | MiniTrunk, num_classes: int, pyramid_channels: int, semantic_channels: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = FeaturePyramid(backbone.channels, pyramid_channels)
        self.semantic = SemanticHead(pyramid_channels, semantic_channels)
        self.classifier = nn.Conv2d(semantic_channels, num_classes, kernel_size=1)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        check_images(images)  # [N, 3, 512, 512]
        maps = self.backbone(images)  # C2 [N, 256, 128, 128] to C5 [N, 2048, 16, 16]
        pyramid = self.pyramid(maps)  # P2 [N, 256, 128, 128] to P5 [N, 256, 16, 16]
        x = self.semantic(pyramid)  # [N, 128, 128, 128]
        logits = self.classifier(x)  # [N, 21, 128, 128]
        return {"out": resize_features(logits, images.shape[2:])}  # [N, 21, 512, 512]


def pspnet_resnet50(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    bins: Sequence[int] = BINS,
) -> PSPNet:
    """PSPNet on torchvision's ResNet-50, at output stride 8 as published: 46,592,597 parameters."""
    trunk = ResNetTrunk(
        50, plan_dilation(8 if output_stride is None else output_stride), pretrained=pretrained_backbone
    )
    return PSPNet(trunk, num_classes, PSP_CHANNELS, bins)


def pspnet_mini(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    bins: Sequence[int] = BINS,
) -> PSPNet:
    """PSPNet under a million parameters, at output stride 8 unless another is asked for."""
    refuse_pretrained_mini(pretrained_backbone, "pspnet_resnet50")
    return PSPNet(
        MiniTrunk(plan_dilation(8 if output_stride is None else output_stride)), num_classes, MINI_PSP_CHANNELS, bins
    )


def fpn_resnet50(num_classes: int = 21, *, output_stride: int | None = None, pretrained_backbone: bool = False) -> FPN:
    """FPN on torchvision's ResNet-50 with all of its strides: 28,478,933 parameters."""
    trunk = ResNetTrunk(
        50, plan_dilation(32 if output_stride is None else output_stride), pretrained=pretrained_backbone
    )
    return FPN(trunk, num_classes, FPN_CHANNELS, SEMANTIC_CHANNELS)


def fpn_mini(num_classes: int = 21, *, output_stride: int | None = None, pretrained_backbone: bool = False) -> FPN:
    """FPN under a million parameters."""
    refuse_pretrained_mini(pretrained_backbone, "fpn_resnet50")
    return FPN(
        MiniTrunk(plan_dilation(32 if output_stride is None else output_stride)),
        num_classes,
        MINI_FPN_CHANNELS,
        MINI_SEMANTIC_CHANNELS,
    )
