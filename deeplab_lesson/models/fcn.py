"""FCN: a classifier run as a convolution, and scores of finer layers added on the way up.

Source: Long, Shelhamer, Darrell 2015 (arXiv 1411.4038), figures 2 and 3.
"""

import torch
from torch import Tensor, nn

from deeplab_lesson.backbones.imagenet import refuse_pretrained_mini
from deeplab_lesson.backbones.resnet import MiniTrunk
from deeplab_lesson.backbones.vgg import (
    FULLY_CONNECTED,
    LAST_MAP,
    VGG_STRIDES,
    ConvolutionalClassifier,
    VGG16Trunk,
    load_imagenet_weights,
    parameters_without_imagenet_weights,
)
from deeplab_lesson.layers.dilation import plan_dilation
from deeplab_lesson.layers.resize import crop_corner
from deeplab_lesson.models.base import SegmentationModel, check_images, check_output_stride

DEEPEST_STRIDE = 32
KEEPS_STRIDES = "an FCN keeps all strides of its trunk and undoes them by transposed convolutions"
MINI_CHANNELS = 64
MINI_DROPOUT = 0.1  # half of 64 channels would be too few
MINI_KERNEL = 3  # at stride 32 it spans 96 of a scene's 128 pixels, as 7x7 spans 224 of VOC's 500


def bilinear_kernel(factor: int) -> Tensor:
    """The kernel [2 * factor, 2 * factor] with which a transposed convolution of this stride interpolates.

    A tent in each direction: at factor 2 the weights 1/4, 3/4, 3/4, 1/4. Its maximum lies between two pixels, so
    that the enlarged map covers the same area as the map (`align_corners=False`).
    """
    center = factor - 0.5
    tent = 1 - (torch.arange(2 * factor) - center).abs() / factor
    return tent[:, None] * tent[None, :]


class BilinearUpsampling(nn.ConvTranspose2d):
    """Enlarge scores by a transposed convolution that starts as bilinear interpolation.

    Each class is enlarged by itself at first; a learned one may then mix them. Equal to `resize_features` except in
    the outermost `factor // 2` pixels, where it fades as if zeros lay outside.

    Shapes:
        input   [N, C, h, w]
        output  [N, C, factor * h, factor * w]

    Args:
        factor: even.
        learned: False keeps the bilinear weights, as a buffer: no parameter.

    Source: section 3.3; section 4.3, of which the last layer is fixed and the inner ones are learned. (In the released
    Caffe models all of them have the learning rate 0.)
    """

    def __init__(self, channels: int, factor: int, *, learned: bool) -> None:
        groups = 1 if learned else channels
        padding = factor // 2  # what the kernel reaches beyond the map's own area
        super().__init__(channels, channels, 2 * factor, factor, padding, groups=groups, bias=False)
        with torch.no_grad():
            classes = torch.eye(channels) if learned else torch.ones(channels, 1)
            weight = classes[:, :, None, None] * bilinear_kernel(factor).to(self.weight.device)
        if learned:
            self.weight = nn.Parameter(weight)
        else:
            del self.weight
            self.register_buffer("weight", weight)


class FCN(SegmentationModel):
    """Trunk, fc6 and fc7 as convolutions, scores, and up to two skips whose scores are added.

    `images` may have any size: poolings round up, so that an enlarged map covers the finer one and its corner is cut
    out. The published net pads the image by 100 pixels instead, and fc6 by none.

    Args:
        backbone: its last three maps have the strides 8, 16, 32.
        skips: 0 (FCN-32s), 1 (FCN-16s: pool4) or 2 (FCN-8s: pool4 and pool3).
    """

    def __init__(
        self, backbone: VGG16Trunk | MiniTrunk, classifier: ConvolutionalClassifier, num_classes: int, skips: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        *_, pool3_channels, pool4_channels, _ = backbone.channels
        self.score = nn.Conv2d(classifier.channels, num_classes, kernel_size=1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]
        self.score_pool4 = _skip_score(pool4_channels, num_classes) if skips >= 1 else None
        self.score_pool3 = _skip_score(pool3_channels, num_classes) if skips >= 2 else None
        self.double_score = BilinearUpsampling(num_classes, 2, learned=True) if skips >= 1 else None
        self.double_pool4 = BilinearUpsampling(num_classes, 2, learned=True) if skips >= 2 else None
        self.enlarge = BilinearUpsampling(num_classes, DEEPEST_STRIDE // 2**skips, learned=False)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        check_images(images)  # [N, 3, 500, 500]
        *_, pool3, pool4, pool5 = self.backbone(images)  # [N, 256, 63, 63], [N, 512, 32, 32], [N, 512, 16, 16]
        x = self.classifier(pool5)  # [N, 4096, 16, 16]
        scores = self.score(x)  # [N, 21, 16, 16]
        if self.score_pool4 is not None and self.double_score is not None:
            doubled = self.double_score(scores)  # [N, 21, 32, 32]
            scores = crop_corner(doubled, pool4.shape[2:]) + self.score_pool4(pool4)  # [N, 21, 32, 32]
        if self.score_pool3 is not None and self.double_pool4 is not None:
            doubled = self.double_pool4(scores)  # [N, 21, 64, 64]
            scores = crop_corner(doubled, pool3.shape[2:]) + self.score_pool3(pool3)  # [N, 21, 63, 63]
        enlarged = self.enlarge(scores)  # [N, 21, 504, 504]; 512 without the skips
        return {"out": crop_corner(enlarged, images.shape[2:])}  # [N, 21, 500, 500]

    def head_parameters(self) -> list[nn.Parameter]:
        """Scores and enlargements; on the mini trunk also fc6 and fc7."""
        return parameters_without_imagenet_weights(self)


def _skip_score(in_channels: int, num_classes: int) -> nn.Conv2d:
    """A 1x1 that starts at zero, so that the net begins as the coarser one (section 4.2)."""
    score = nn.Conv2d(in_channels, num_classes, kernel_size=1)
    nn.init.zeros_(score.weight)
    nn.init.zeros_(score.bias)  # type: ignore[arg-type]
    return score


def fcn_vgg16(
    skips: int,
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    dropout: float = 0.5,
) -> FCN:
    """FCN-32s, -16s or -8s on VGG-16; ImageNet weights include those of fc6 and fc7."""
    check_output_stride(output_stride, DEEPEST_STRIDE, KEEPS_STRIDES)
    trunk = VGG16Trunk(plan_dilation(DEEPEST_STRIDE, VGG_STRIDES))
    classifier = ConvolutionalClassifier(trunk.channels[-1], FULLY_CONNECTED, LAST_MAP, dropout=dropout)
    model = FCN(trunk, classifier, num_classes, skips)
    if pretrained_backbone:
        load_imagenet_weights(trunk, [classifier])
    return model


def fcn_mini(
    skips: int,
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    dropout: float = MINI_DROPOUT,
) -> FCN:
    """FCN-32s, -16s or -8s under a million parameters, on the narrow residual trunk."""
    check_output_stride(output_stride, DEEPEST_STRIDE, KEEPS_STRIDES)
    refuse_pretrained_mini(pretrained_backbone, "fcn8s_vgg16")
    trunk = MiniTrunk(plan_dilation(DEEPEST_STRIDE))
    classifier = ConvolutionalClassifier(trunk.channels[-1], MINI_CHANNELS, MINI_KERNEL, dropout=dropout)
    return FCN(trunk, classifier, num_classes, skips)
