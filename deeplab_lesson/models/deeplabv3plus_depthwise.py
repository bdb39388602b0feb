"""DeepLab v3+ on the two trunks that are made of depthwise separable convolutions.

Source: Chen, Zhu, Papandreou, Schroff, Adam 2018 (arXiv 1802.02611), section 3.2 for Xception. MobileNetV3 is
from Howard et al. 2019 (arXiv 1905.02244); under v3+'s decoder it takes its stride-4 map of 24 channels.
"""

from collections.abc import Sequence

from deeplab_lesson.backbones.mobilenet import MOBILENET_STRIDES, MobileNetV3Trunk
from deeplab_lesson.backbones.xception import XCEPTION_STRIDES, Xception65Trunk
from deeplab_lesson.layers.dilation import ASPP_RATES_AT_16, plan_dilation
from deeplab_lesson.models.deeplabv3plus import DeepLabV3Plus


def deeplabv3plus_xception65(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    decoder: bool = True,
    separable: bool = False,
    image_pooling: bool = True,
    aspp_rates_at_16: Sequence[int] = ASPP_RATES_AT_16,
    relu_after_depthwise: bool = False,
) -> DeepLabV3Plus:
    """v3+ on the modified aligned Xception-65, at output stride 16 unless 32, 8 or 4 is asked for.

    Args:
        relu_after_depthwise: a ReLU after every depthwise convolution of the trunk, as the paper writes, instead
            of only in its last block, as the authors' code has it; see `Xception65Trunk`.
        separable: also split the 3x3 of ASPP and decoder, as the paper's Xception models do (its tables' "SC").

    Raises:
        ValueError: pretrained_backbone=True: torchvision has no Xception.
    """
    if pretrained_backbone:
        raise ValueError(
            "pretrained_backbone=True: torchvision has no ImageNet weights for Xception-65; allowed with the "
            "resnet, vgg16 and mobilenetv3 models; take pretrained_backbone=False or deeplabv3plus_resnet101"
        )
    stride = 16 if output_stride is None else output_stride
    plan = plan_dilation(stride, XCEPTION_STRIDES, aspp_rates_at_16=aspp_rates_at_16)
    trunk = Xception65Trunk(plan, relu_after_depthwise=relu_after_depthwise)
    return DeepLabV3Plus(
        trunk,
        num_classes,
        plan.aspp_rates,
        decoder=decoder,
        separable=separable,
        image_pooling=image_pooling,
    )


def deeplabv3plus_mobilenetv3(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    decoder: bool = True,
    separable: bool = False,
    image_pooling: bool = True,
    aspp_rates_at_16: Sequence[int] = ASPP_RATES_AT_16,
) -> DeepLabV3Plus:
    """v3+ on torchvision's MobileNetV3-Large, at output stride 16 unless 32, 8 or 4 is asked for.

    Raises:
        ConnectionError: pretrained_backbone=True, and the weights cannot be downloaded.
    """
    stride = 16 if output_stride is None else output_stride
    plan = plan_dilation(stride, MOBILENET_STRIDES, aspp_rates_at_16=aspp_rates_at_16)
    trunk = MobileNetV3Trunk(plan, pretrained=pretrained_backbone)
    return DeepLabV3Plus(
        trunk,
        num_classes,
        plan.aspp_rates,
        decoder=decoder,
        separable=separable,
        image_pooling=image_pooling,
    )
