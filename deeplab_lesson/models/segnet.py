"""SegNet: an encoder of convolutions and max-pooling, and its mirror image, which unpools by remembered positions.

Source: Badrinarayanan, Kendall, Cipolla 2015 (arXiv 1511.00561), figure 2.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from deeplab_lesson.backbones.imagenet import refuse_pretrained_mini, torchvision_classifier
from deeplab_lesson.backbones.resnet import STAGES, MiniTrunk
from deeplab_lesson.layers.dilation import plan_dilation
from deeplab_lesson.models.base import SegmentationModel, check_images, check_output_stride

DEEPEST_STRIDE = 32  # five poolings

# What each step of the decoder computes after unpooling, from the deepest: the encoder's channels read backwards.
# The last convolution of the last step is the classifier.
VGG16_DECODER = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64,))
MINI_DECODER = ((64, 48), (48, 24), (24, 24), (24,), (24,))


class PoolingEncoder(nn.Module):
    """Stages at full size, each followed by max-pooling 2x2 that also tells where each maximum was.

    Pooling rounds sizes up, as the authors' Caffe does (45 becomes 23), so that no pixel is left out.
    """

    def __init__(self, stages: Sequence[nn.Module], channels: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(channels)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True, return_indices=True)

    def forward(self, images: Tensor) -> tuple[Tensor, list[tuple[Tensor, torch.Size]]]:
        """Return the last pooled map and, from the first stage to the last, (indices, size before pooling)."""
        x, memory = images, []  # [N, 3, 360, 480]
        for stage in self.stages:
            x = stage(x)  # [N, 64, 360, 480], [N, 128, 180, 240], ..., [N, 512, 23, 30]
            size = x.shape[2:]
            x, indices = self.pool(x)  # [N, 64, 180, 240], [N, 128, 90, 120], ..., [N, 512, 12, 15]
            memory.append((indices, size))
        return x, memory


class SegNet(SegmentationModel):
    """Encoder, then for every stage: unpool, convolutions with BatchNorm and ReLU; the last one classifies.

    Unpooling has no weights: each value goes back to where its maximum was, and the other three positions of
    its window hold zero. Nothing but these positions (two bits a window) leads from encoder to decoder.

    Args:
        backbone: five stages and their channels.
        decoder_channels: for every stage, from the deepest, what its convolutions give.
    """

    def __init__(self, backbone: PoolingEncoder, num_classes: int, decoder_channels: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.backbone = backbone
        self.unpool = nn.MaxUnpool2d(kernel_size=2, stride=2)
        self.decoder = nn.ModuleList()
        for pooled, outputs in zip(reversed(backbone.channels), decoder_channels, strict=True):
            steps = (convolution_bn_relu(wide, narrow) for wide, narrow in pairwise((pooled, *outputs)))
            self.decoder.append(nn.Sequential(*steps))
        self.classifier = nn.Conv2d(backbone.channels[0], num_classes, 3, padding=1)
        for layer in (*self.decoder.modules(), self.classifier):
            if isinstance(layer, nn.Conv2d):  # section 4: He et al.'s initialization
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        check_images(images)  # [N, 3, 360, 480]
        x, memory = self.backbone(images)  # [N, 512, 12, 15]
        for step, (indices, size) in zip(self.decoder, reversed(memory), strict=True):
            x = self.unpool(x, indices, output_size=size)  # [N, 512, 23, 30], ..., [N, 64, 360, 480]
            x = step(x)  # [N, 512, 23, 30], [N, 256, 45, 60], [N, 128, 90, 120], [N, 64, 180, 240], [N, 64, 360, 480]
        return {"out": self.classifier(x)}  # [N, 21, 360, 480]


def convolution_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3, BatchNorm, ReLU; with a bias, as in torchvision's VGG and the authors' network."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )


def vgg16_encoder(pretrained: bool) -> PoolingEncoder:
    """torchvision's VGG-16 with BatchNorm: its 13 convolutions, cut at its five poolings.

    Raises:
        ConnectionError: the weights cannot be downloaded.
    """
    vgg16 = torchvision_classifier("vgg16_bn", "VGG-16 with BatchNorm", pretrained=pretrained)
    stages, layers = [], list[nn.Module]()
    for layer in vgg16.features.children():
        if isinstance(layer, nn.MaxPool2d):
            stages.append(nn.Sequential(*layers))
            layers.clear()
        else:
            layers.append(layer)
    return PoolingEncoder(stages, (64, 128, 256, 512, 512))


def mini_encoder() -> PoolingEncoder:
    """The mini trunk's layers, with max-pooling in the place of every stride; the last two stages share one size."""
    trunk = MiniTrunk(plan_dilation(DEEPEST_STRIDE))
    for name in ("stem", *STAGES):
        for layer in getattr(trunk, name).modules():
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)
    deepest = nn.Sequential(trunk.layer3, trunk.layer4)
    stages = (trunk.stem[:3], trunk.stem[3:], trunk.layer1, trunk.layer2, deepest)
    c2, c3, _, c5 = trunk.channels
    return PoolingEncoder(stages, (c2, c2, c2, c3, c5))


def segnet_vgg16(
    num_classes: int = 21, *, output_stride: int | None = None, pretrained_backbone: bool = False
) -> SegNet:
    """SegNet as published: 13 + 13 convolutions, 29,455,125 parameters for 21 classes."""
    check_output_stride(output_stride, DEEPEST_STRIDE, "SegNet undoes all of its poolings one by one")
    return SegNet(vgg16_encoder(pretrained_backbone), num_classes, VGG16_DECODER)


def segnet_mini(
    num_classes: int = 21, *, output_stride: int | None = None, pretrained_backbone: bool = False
) -> SegNet:
    """SegNet under a million parameters: the mini trunk's layers, pooling for strides, a decoder of fewer layers."""
    check_output_stride(output_stride, DEEPEST_STRIDE, "SegNet undoes all of its poolings one by one")
    refuse_pretrained_mini(pretrained_backbone, "segnet_vgg16")
    return SegNet(mini_encoder(), num_classes, MINI_DECODER)
