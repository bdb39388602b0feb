"""DeepLab v3: atrous convolution in cascade, or in parallel as ASPP with the image's mean.

Source: Chen, Papandreou, Schroff, Adam 2017 (arXiv 1706.05587).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from deeplab_lesson.backbones.imagenet import refuse_pretrained_mini
from deeplab_lesson.backbones.resnet import MiniTrunk, ResNetTrunk
from deeplab_lesson.layers.aspp import ASPP
from deeplab_lesson.layers.checks import check_whole
from deeplab_lesson.layers.convolution import ConvBNReLU
from deeplab_lesson.layers.dilation import ASPP_RATES_AT_16, RESNET_STRIDES, DilationPlan, make_dense, plan_dilation
from deeplab_lesson.layers.resize import resize_features
from deeplab_lesson.models.base import SegmentationModel, check_images
from deeplab_lesson.models.deeplabv3plus import HEAD_CHANNELS, MINI_ASPP_RATES_AT_16, MINI_HEAD_CHANNELS

Head = Literal["aspp", "cascade"]
MultiGrid = Sequence[int] | Literal["best"] | None
BestMultiGrid = Mapping[Head, tuple[int, ...]]

COPIES = ("block5", "block6", "block7")  # v3 figure 3
CASCADE_STRIDES = {**RESNET_STRIDES, **dict.fromkeys(COPIES, 2)}  # v3 figure 3a: without atrous, output stride 256
BEST_MULTI_GRID: BestMultiGrid = {"aspp": (1, 2, 4), "cascade": (1, 2, 1)}  # v3 tables 5 and 3
MINI_MULTI_GRID: BestMultiGrid = {"aspp": (1, 2), "cascade": (1, 2)}  # two units in its layer4


class Cascade(nn.Module):
    """v3's deeper trunk: blocks 5 to 7, copies of block4 (layer4) that keep the map and double the rate.

    Each copy has a stride of 2, like layer4, and the plan takes it out: at output stride 16 the blocks 4 to 7 run
    at the rates 2, 4, 8, 16; at output stride 256 none is taken out (figure 3a, table 1). Where the input has the
    block's channels, the first unit's shortcut is the identity, as in the authors' TF-slim.

    Shapes, for ResNet-50 and a 513x513 image at output stride 16:
        input   [N, 2048, 33, 33]   output of layer4
        output  [N, 2048, 33, 33]

    Args:
        block4: the trunk's layer4; its kind and number of residual units are copied, its weights are not.
        in_channels: of block4's output.
        channels: of every copy's output; the paper's are block4's own.

    Source: v3 sections 3.2 and 4.2, figure 3.
    """

    def __init__(self, block4: nn.Sequential, in_channels: int, channels: int, plan: DilationPlan) -> None:
        super().__init__()
        self.block5 = _copy_of_block4(block4, in_channels, channels)
        self.block6 = _copy_of_block4(block4, channels, channels)
        self.block7 = _copy_of_block4(block4, channels, channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for name in COPIES:
            make_dense(getattr(self, name), plan[name])

    def forward(self, features: Tensor) -> Tensor:
        x: Tensor = self.block5(features)  # [N, 2048, 33, 33], rate 4
        x = self.block6(x)  # [N, 2048, 33, 33], rate 8
        x = self.block7(x)  # [N, 2048, 33, 33], rate 16
        return x


def _copy_of_block4(block4: nn.Sequential, in_channels: int, channels: int) -> nn.Sequential:
    unit: Any = type(block4[0])  # torchvision's Bottleneck or BasicBlock
    width = channels // unit.expansion
    shortcut = nn.Sequential(nn.MaxPool2d(1, stride=2))  # the identity, at every second position
    if in_channels != channels:
        shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride=2, bias=False), nn.BatchNorm2d(channels))
    first = unit(in_channels, width, 2, shortcut)
    return nn.Sequential(first, *(unit(channels, width) for _ in range(len(block4) - 1)))


class DeepLabV3(SegmentationModel):
    """Trunk, ASPP or cascade, 1x1 classifier, bilinear to the image's size.

    Args:
        backbone: returns four feature maps; the last feeds the head, the third the auxiliary head.
        head: `ASPP` or `Cascade`.
        head_channels: of the head's output.
        head_conv: a 3x3 convolution with BatchNorm and ReLU between ASPP and classifier. torchvision's model and
            Google's deeplab2 have it; the paper's head has not.
        aux_head: in training, a second classifier on layer3 as in torchvision: key "aux" of `forward_heads`.

    Attributes:
        skipped_weights: keys of a loaded state dict that this model has no place for (`load_torchvision_weights`).
    """

    skipped_weights: tuple[str, ...] = ()

    def __init__(
        self,
        backbone: ResNetTrunk | MiniTrunk,
        head: ASPP | Cascade,
        head_channels: int,
        num_classes: int,
        *,
        head_conv: bool = False,
        aux_head: bool = False,
    ) -> None:
        super().__init__()
        check_whole("head_channels", head_channels)
        check_whole("num_classes", num_classes, least=2)
        self.backbone = backbone
        self.head = head
        self.head_conv = ConvBNReLU(head_channels, head_channels) if head_conv else nn.Identity()
        self.classifier = nn.Conv2d(head_channels, num_classes, kernel_size=1)
        self.aux_head = auxiliary_head(backbone.channels[2], num_classes) if aux_head else None

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        check_images(images)  # [N, 3, 513, 513]
        _, _, middle, features = self.backbone(images)  # [N, 1024, 33, 33], [N, 2048, 33, 33]
        x = self.head_conv(self.head(features))  # [N, 256, 33, 33] from ASPP; [N, 2048, 33, 33] from the cascade
        logits = self.classifier(x)  # [N, 21, 33, 33]
        heads = {"out": resize_features(logits, images.shape[2:])}  # [N, 21, 513, 513]
        if self.aux_head is not None:
            heads["aux"] = resize_features(self.aux_head(middle), images.shape[2:])  # [N, 21, 513, 513]
        return heads


def auxiliary_head(in_channels: int, num_classes: int) -> nn.Sequential:
    """A 3x3 to a quarter of the channels, dropout, 1x1: torchvision's FCNHead, whose loss it weighs 0.5."""
    narrow = in_channels // 4
    return nn.Sequential(ConvBNReLU(in_channels, narrow), nn.Dropout(0.1), nn.Conv2d(narrow, num_classes, 1))


def deeplabv3_resnet(
    depth: int,
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    head: Head = "aspp",
    multi_grid: MultiGrid = "best",
    image_pooling: bool = True,
    head_conv: bool = False,
    aux_head: bool = False,
    aspp_rates_at_16: Sequence[int] = ASPP_RATES_AT_16,
) -> DeepLabV3:
    """v3 on torchvision's ResNet of the given depth, at output stride 16 unless another is asked for.

    Args:
        head: "aspp" (section 3.3), or "cascade" (section 3.2), which also works at output stride 32 to 256.
        multi_grid: unit rates of layer4's residual units, and of the cascade's. "best" is (1, 2, 4) with ASPP and
            (1, 2, 1) in the cascade; None keeps the rates of `plan_dilation`. See `DilationPlan.with_multi_grid`.
        image_pooling: the image-level branch of ASPP; the cascade has none.

    Raises:
        ValueError: an impossible output stride, head or multi-grid; head_conv=True with the cascade.
    """
    plan = _plan(output_stride, head, multi_grid, BEST_MULTI_GRID, aspp_rates_at_16)
    trunk = ResNetTrunk(depth, plan, pretrained=pretrained_backbone)
    width = HEAD_CHANNELS if head == "aspp" else trunk.channels[-1]  # the copies are as wide as layer4
    built = _head(trunk, plan, head, width, image_pooling, head_conv)
    return DeepLabV3(trunk, built, width, num_classes, head_conv=head_conv, aux_head=aux_head)


def deeplabv3_mini(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    head: Head = "aspp",
    multi_grid: MultiGrid = "best",
    image_pooling: bool = True,
    head_conv: bool = False,
    aux_head: bool = False,
    aspp_rates_at_16: Sequence[int] = MINI_ASPP_RATES_AT_16,
) -> DeepLabV3:
    """v3 under a million parameters: the same parts, narrow. Its layer4 has two units, so "best" is (1, 2)."""
    refuse_pretrained_mini(pretrained_backbone, "deeplabv3_resnet50")
    plan = _plan(output_stride, head, multi_grid, MINI_MULTI_GRID, aspp_rates_at_16)
    trunk = MiniTrunk(plan)
    built = _head(trunk, plan, head, MINI_HEAD_CHANNELS, image_pooling, head_conv)
    return DeepLabV3(trunk, built, MINI_HEAD_CHANNELS, num_classes, head_conv=head_conv, aux_head=aux_head)


def _plan(
    output_stride: int | None, head: Head, multi_grid: MultiGrid, best: BestMultiGrid, aspp_rates_at_16: Sequence[int]
) -> DilationPlan:
    if head not in best:
        raise ValueError(f"head={head!r}: allowed are {' and '.join(repr(name) for name in best)}")
    strides = CASCADE_STRIDES if head == "cascade" else RESNET_STRIDES
    plan = plan_dilation(16 if output_stride is None else output_stride, strides, aspp_rates_at_16=aspp_rates_at_16)
    if multi_grid is None:
        return plan
    return plan.with_multi_grid(best[head] if multi_grid == "best" else multi_grid, ("layer4", *COPIES))


def _head(
    trunk: ResNetTrunk | MiniTrunk, plan: DilationPlan, head: Head, width: int, image_pooling: bool, head_conv: bool
) -> ASPP | Cascade:
    if head == "aspp":
        return ASPP(trunk.channels[-1], plan.aspp_rates, width, image_pooling=image_pooling)
    if head_conv:
        raise ValueError("head_conv=True stands behind ASPP: allowed with head='aspp'; take head_conv=False")
    return Cascade(trunk.layer4, trunk.channels[-1], width, plan)
