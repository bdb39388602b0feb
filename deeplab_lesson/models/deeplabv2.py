"""DeepLab v2: several rates side by side (ASPP), whose scores are summed, on VGG-16 or ResNet-101.

Source: Chen, Papandreou, Kokkinos, Murphy, Yuille 2016 (arXiv 1606.00915). Its CRF is `deeplab_lesson.crf`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from deeplab_lesson.backbones.imagenet import refuse_pretrained_mini
from deeplab_lesson.backbones.resnet import MiniTrunk, ResNetTrunk
from deeplab_lesson.backbones.vgg import (
    VGG_STRIDES,
    ConvolutionalClassifier,
    Pools,
    VGG16Trunk,
    load_imagenet_weights,
    parameters_without_imagenet_weights,
)
from deeplab_lesson.layers.dilation import RESNET_STRIDES, DilationPlan, plan_dilation
from deeplab_lesson.layers.resize import resize_features, shrink
from deeplab_lesson.models.base import SegmentationModel, check_images

OUTPUT_STRIDE = 8
Head = Literal["largefov", "aspp_s", "aspp_l"]
# Section 4.1.2 and table 3: the rates at output stride 8
RATES: Mapping[str, tuple[int, ...]] = {"largefov": (12,), "aspp_s": (2, 4, 8, 12), "aspp_l": (6, 12, 18, 24)}
MINI_RATES: Mapping[str, tuple[int, ...]] = {  # a scene's 128 pixels are 16 positions at output stride 8
    "largefov": (4,),
    "aspp_s": (1, 2, 3, 4),
    "aspp_l": (2, 4, 6, 8),
}
VGG_CHANNELS = 1024  # of fc6 and fc7 in every branch: LargeFOV's
INPUT_SCALES = (1.0, 0.75, 0.5)  # section 4.1.2, "multi-scale inputs"


class SummedASPP(nn.Module):
    """v2's pyramid: every branch gives scores of its own, from its own rate, and they are summed.

    v3's `ASPP` joins features by concatenation instead, and has BatchNorm and an image-level branch. One branch alone
    is LargeFOV.

    Shapes, for ResNet-101 and a 321x321 image at output stride 8:
        input   [N, 2048, 41, 41]
        output  [N,   21, 41, 41]

    Source: section 3.2 and figures 4 and 7.
    """

    def __init__(self, branches: Iterable[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, features: Tensor) -> Tensor:
        scores = [branch(features) for branch in self.branches]  # 4 x [N, 21, 41, 41]
        return torch.stack(scores).sum(dim=0)  # [N, 21, 41, 41]


def score_layer(in_channels: int, num_classes: int, kernel_size: int, rate: int = 1) -> nn.Conv2d:
    """A convolution to scores, with the released models' first weights: Gaussian, deviation 0.01."""
    padding = rate * (kernel_size // 2)
    layer = nn.Conv2d(in_channels, num_classes, kernel_size, padding=padding, dilation=rate)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def vgg_branch(in_channels: int, num_classes: int, rate: int, dropout: float = 0.5) -> nn.Sequential:
    """fc6 (3x3 at `rate`), fc7 and fc8: on VGG-16 every branch is a LargeFOV classifier of its own (figure 7)."""
    classifier = ConvolutionalClassifier(in_channels, VGG_CHANNELS, 3, rate, dropout=dropout)
    return nn.Sequential(classifier, score_layer(VGG_CHANNELS, num_classes, 1))


def resnet_branch(in_channels: int, num_classes: int, rate: int) -> nn.Conv2d:
    """One 3x3 at `rate` from the last features to the scores."""
    return score_layer(in_channels, num_classes, 3, rate)


class DeepLabV2(SegmentationModel):
    """Trunk, summed ASPP, bilinear to the image's size; with several input scales, the largest score of each pixel.

    With multi_scale_inputs, `forward_heads` returns beside "out" the scores of each scale, at the image's size, as
    "scale_1", "scale_0.75" and "scale_0.5": the paper's loss is the sum of four cross-entropies. The weights are the
    same for all scales. This is not v1's MSc, which fuses features of one image at several depths.
    """

    def __init__(
        self, backbone: VGG16Trunk | ResNetTrunk | MiniTrunk, aspp: SummedASPP, *, multi_scale_inputs: bool
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.aspp = aspp
        self.multi_scale_inputs = multi_scale_inputs

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        check_images(images)  # [N, 3, 321, 321]
        if not self.multi_scale_inputs:
            return {"out": self._scores(images, images)}  # [N, 21, 321, 321]
        heads = {f"scale_{scale:g}": self._scores(shrink(images, scale), images) for scale in INPUT_SCALES}
        out = torch.stack(list(heads.values())).amax(dim=0)  # 3 x [N, 21, 321, 321] -> [N, 21, 321, 321]
        return {"out": out, **heads}

    def _scores(self, scaled: Tensor, images: Tensor) -> Tensor:
        features = self.backbone(scaled)[-1]  # [N, 2048, 41, 41]
        logits = self.aspp(features)  # [N, 21, 41, 41]
        return resize_features(logits, images.shape[2:])  # [N, 21, 321, 321]

    def head_parameters(self) -> list[nn.Parameter]:
        """The scores' layers, which the paper trains at ten times the rate."""
        return parameters_without_imagenet_weights(self)


def deeplabv2_vgg16(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    head: Head = "aspp_l",
    multi_scale_inputs: bool = False,
    pools: Pools = "dilated",
) -> DeepLabV2:
    """v2 on VGG-16, at output stride 8 unless another is asked for; rates change with it.

    ImageNet weights fill fc6 and fc7 of every branch too, decimated as in v1; the rates tell the branches apart.

    Args:
        head: "largefov", "aspp_s" or "aspp_l"; see `RATES`.
        multi_scale_inputs: max fusion over the image at 1, 0.75 and 0.5 times its size.
        pools: see `VGG16Trunk`.
    """
    plan = plan_v2(head, RATES, output_stride, VGG_STRIDES)
    trunk = VGG16Trunk(plan, pools=pools)
    model = _model(trunk, vgg_branch, plan, num_classes, multi_scale_inputs)
    if pretrained_backbone:
        classifiers = [module for module in model.modules() if isinstance(module, ConvolutionalClassifier)]
        load_imagenet_weights(trunk, classifiers)
    return model


def deeplabv2_resnet101(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    head: Head = "aspp_l",
    multi_scale_inputs: bool = False,
) -> DeepLabV2:
    """v2 on torchvision's ResNet-101, at output stride 8 unless another is asked for; options as on VGG-16."""
    plan = plan_v2(head, RATES, output_stride, RESNET_STRIDES)
    trunk = ResNetTrunk(101, plan, pretrained=pretrained_backbone)
    return _model(trunk, resnet_branch, plan, num_classes, multi_scale_inputs)


def deeplabv2_mini(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    head: Head = "aspp_l",
    multi_scale_inputs: bool = False,
) -> DeepLabV2:
    """v2 under a million parameters: the residual trunk's kind of branch, at rates for small pictures."""
    refuse_pretrained_mini(pretrained_backbone, "deeplabv2_resnet101")
    plan = plan_v2(head, MINI_RATES, output_stride, RESNET_STRIDES)
    return _model(MiniTrunk(plan), resnet_branch, plan, num_classes, multi_scale_inputs)


def plan_v2(
    head: str, rates: Mapping[str, tuple[int, ...]], output_stride: int | None, strides: Mapping[str, int]
) -> DilationPlan:
    """Plan the trunk and the head's rates, which stand in `rates` for output stride 8.

    Raises:
        ValueError: a head that v2 does not have, or an output stride that the trunk cannot give.
    """
    if head not in rates:
        raise ValueError(f"head={head!r}: allowed are {', '.join(rates)}")
    stride = OUTPUT_STRIDE if output_stride is None else output_stride
    return plan_dilation(stride, strides, aspp_rates_at_16=[rate / 2 for rate in rates[head]])


def _model(
    trunk: VGG16Trunk | ResNetTrunk | MiniTrunk,
    branch: Callable[[int, int, int], nn.Module],
    plan: DilationPlan,
    num_classes: int,
    multi_scale_inputs: bool,
) -> DeepLabV2:
    aspp = SummedASPP(branch(trunk.channels[-1], num_classes, rate) for rate in plan.aspp_rates)
    return DeepLabV2(trunk, aspp, multi_scale_inputs=multi_scale_inputs)
