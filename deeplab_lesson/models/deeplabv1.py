"""DeepLab v1: VGG-16 with the last two strides removed, and a smaller fc6 at a larger rate.

Source: Chen, Papandreou, Kokkinos, Murphy, Yuille 2014 (arXiv 1412.7062). Its CRF is `deeplab_lesson.crf`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from deeplab_lesson.backbones.imagenet import refuse_pretrained_mini
from deeplab_lesson.backbones.resnet import MiniTrunk
from deeplab_lesson.backbones.vgg import (
    FULLY_CONNECTED,
    VGG_STRIDES,
    ConvolutionalClassifier,
    Pools,
    VGG16Trunk,
    load_imagenet_weights,
    parameters_without_imagenet_weights,
)
from deeplab_lesson.layers.dilation import RESNET_STRIDES, DilationPlan, plan_dilation
from deeplab_lesson.layers.resize import resize_features
from deeplab_lesson.models.base import SegmentationModel, check_images

OUTPUT_STRIDE = 8
# Section 4.3, table 2: size of fc6's kernel, its rate at output stride 8 ("input stride"), channels of fc6 and fc7
VARIANTS = {
    "7x7": (7, 4, FULLY_CONNECTED),
    "4x4": (4, 8, FULLY_CONNECTED),
    "base": (4, 4, FULLY_CONNECTED),
    "largefov": (3, 12, 1024),
}
MSC_CHANNELS = 128  # section 4.3: both layers of every MLP
MINI_VARIANT = (3, 4, 64)  # a scene's 128 pixels are 16 positions at output stride 8: rate 12 would leave the map
MINI_DROPOUT = 0.1  # half of 64 channels would be too few
MINI_MSC_CHANNELS = 16


class MultiScaleFeatures(nn.Module):
    """The paper's MSc: two-layer MLPs on the image and the early maps, joined to the last layer's features.

    It fuses features of one image at several depths; the multi-scale *inputs* of v2 are another thing. The paper does
    not say how the maps come to one size; as in the released files the 3x3 takes the missing stride (8, 4, 2, 1, 1).

    Shapes, for a 321x321 image at output stride 8:
        inputs  [N, 3, 321, 321], [N, 64, 161, 161], [N, 128, 81, 81], [N, 256, 41, 41], [N, 512, 41, 41]
        output  [N, 640, 41, 41]
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], channels: int) -> None:
        super().__init__()
        self.mlps = nn.ModuleList()
        for read, stride in zip(in_channels, strides, strict=True):
            mlp = nn.Sequential(
                nn.Conv2d(read, channels, 3, stride=stride, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, kernel_size=1),
                nn.ReLU(inplace=True),
            )
            self.mlps.append(mlp)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.channels = channels * len(self.mlps)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        features = [mlp(each) for mlp, each in zip(self.mlps, maps, strict=True)]  # 5 x [N, 128, 41, 41]
        return torch.cat(features, dim=1)  # [N, 640, 41, 41]


class DeepLabV1(SegmentationModel):
    """Trunk, fc6, fc7, classifier, bilinear to the image's size; with `msc` the early features beside fc7's."""

    def __init__(
        self,
        backbone: VGG16Trunk | MiniTrunk,
        classifier: ConvolutionalClassifier,
        num_classes: int,
        msc: MultiScaleFeatures | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.msc = msc
        self.fc8 = nn.Conv2d(classifier.channels + (msc.channels if msc else 0), num_classes, kernel_size=1)
        nn.init.normal_(self.fc8.weight, std=0.01)  # the released models' filler
        nn.init.zeros_(self.fc8.bias)  # type: ignore[arg-type]

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        check_images(images)  # [N, 3, 321, 321]; the shapes below are LargeFOV's
        *early, features = self.backbone(images)  # [N, 512, 41, 41]
        x = self.classifier(features)  # [N, 1024, 41, 41]
        if self.msc is not None:
            x = torch.cat([x, self.msc([images, *early])], dim=1)  # [N, 1664, 41, 41]
        logits = self.fc8(x)  # [N, 21, 41, 41]
        return {"out": resize_features(logits, images.shape[2:])}  # [N, 21, 321, 321]

    def head_parameters(self) -> list[nn.Parameter]:
        """fc8 and MSc, which the paper trains alone; on the mini trunk also fc6 and fc7."""
        return parameters_without_imagenet_weights(self)


def deeplabv1_vgg16(
    variant: str,
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    msc: bool = False,
    pools: Pools = "dilated",
    dropout: float = 0.5,
) -> DeepLabV1:
    """v1 by weight surgery on VGG-16, at output stride 8 unless another is asked for.

    ImageNet weights include fc6 and fc7, decimated to the variant's kernel and channels. At another output stride
    fc6's rate changes with it; the 7x7 at output stride 32 is FCN-32s's network at rate 1.

    Args:
        variant: "7x7", "4x4" (rate 8), "base" (4x4 at rate 4: the paper's plain "DeepLab") or "largefov".
        msc: the multi-scale features of `MultiScaleFeatures`, 640 channels.
        pools: see `VGG16Trunk`.
    """
    kernel_size, rate, channels = VARIANTS[variant]
    plan = plan_v1(output_stride, rate, VGG_STRIDES)
    trunk = VGG16Trunk(plan, pools=pools)
    classifier = ConvolutionalClassifier(trunk.channels[-1], channels, kernel_size, plan.aspp_rates[0], dropout=dropout)
    early = multi_scale_features(trunk, plan, MSC_CHANNELS) if msc else None
    model = DeepLabV1(trunk, classifier, num_classes, early)
    if pretrained_backbone:
        load_imagenet_weights(trunk, [classifier])
    return model


def deeplabv1_mini(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    msc: bool = False,
    dropout: float = MINI_DROPOUT,
) -> DeepLabV1:
    """v1 under a million parameters: LargeFOV's head, narrow; MSc reads the image and the first three stages."""
    refuse_pretrained_mini(pretrained_backbone, "deeplabv1_largefov")
    kernel_size, rate, channels = MINI_VARIANT
    plan = plan_v1(output_stride, rate, RESNET_STRIDES)
    trunk = MiniTrunk(plan)
    classifier = ConvolutionalClassifier(trunk.channels[-1], channels, kernel_size, plan.aspp_rates[0], dropout=dropout)
    early = multi_scale_features(trunk, plan, MINI_MSC_CHANNELS) if msc else None
    return DeepLabV1(trunk, classifier, num_classes, early)


def plan_v1(output_stride: int | None, rate: int, strides: Mapping[str, int]) -> DilationPlan:
    """Plan the trunk, and fc6's rate, which is given for output stride 8."""
    stride = OUTPUT_STRIDE if output_stride is None else output_stride
    return plan_dilation(stride, strides, aspp_rates_at_16=[rate / 2])


def multi_scale_features(trunk: VGG16Trunk | MiniTrunk, plan: DilationPlan, channels: int) -> MultiScaleFeatures:
    """MSc for the image and every map of the trunk but the last."""
    stages = plan.stages[-len(trunk.channels) : -1]  # a residual trunk's stem gives no map of its own
    strides = [1, *(stage.output_stride for stage in stages)]
    missing = [plan.output_stride // stride for stride in strides]
    return MultiScaleFeatures((3, *trunk.channels[:-1]), missing, channels)
