"""Attention to scale: one network looks at the image in several sizes, and every pixel weighs what they say.

Some articles call this "DeepLab V4", a version that does not exist; the paper is older than v2.
Source: Chen, Yang, Wang, Xu, Yuille 2015 (arXiv 1511.03339), sections 3 and 4.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from deeplab_lesson.backbones.imagenet import refuse_pretrained_mini
from deeplab_lesson.backbones.resnet import MiniTrunk, ResNetTrunk
from deeplab_lesson.backbones.vgg import ConvolutionalClassifier
from deeplab_lesson.layers.dilation import plan_dilation
from deeplab_lesson.layers.resize import resize_features, shrink
from deeplab_lesson.models.base import SegmentationModel, check_images

Fusion = Literal["attention", "average", "max"]

SCALES = (1.0, 0.5)  # section 5: with three scales (1, 0.75, 0.5)
FEATURE_CHANNELS = 1024  # fc6 and fc7 of DeepLab-LargeFOV, the paper's network
LARGE_FOV_RATE_AT_16 = 6  # 12 at output stride 8 (v1 table 2)
FEATURE_DROPOUT = 0.5  # after fc6 and fc7, as in v1
ATTENTION_CHANNELS = 512  # section 5: first layer 512 filters of 3x3, second layer 1x1, one map a scale
MINI_FEATURE_CHANNELS = 64
MINI_LARGE_FOV_RATE_AT_16 = 2  # the half-size map of a 128-pixel picture is 4x4 at output stride 16
MINI_FEATURE_DROPOUT = 0.1
MINI_ATTENTION_CHANNELS = 48


class ScaleAttention(nn.Module):
    """The attention model: from the features of all scales, side by side, a weight a scale at every position.

    Shapes, for a 513x513 image, two scales, output stride 8:
        features  2 of [N, 1024, 65, 65], the second enlarged from 33x33
        output    [N, 2, 65, 65], which sums to one over the scales
    """

    def __init__(self, in_channels: int, channels: int, scales: int) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(scales * in_channels, channels, 3, padding=1)
        self.score = nn.Conv2d(channels, scales, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        joined = torch.cat(list(features), dim=1)  # [N, 2048, 65, 65]
        hidden = torch.relu(self.hidden(joined))  # [N, 512, 65, 65]
        return torch.softmax(self.score(hidden), dim=1)  # [N, 2, 65, 65]


def fuse_by_weights(scores: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Sum over the scales s of weights[:, s] * scores[s]; every class of a pixel has the pixel's weight (eq. 1)."""
    stacked = torch.stack(list(scores), dim=1)  # [N, 2, 21, 65, 65]
    return (weights[:, :, None] * stacked).sum(dim=1)  # [N, 21, 65, 65]


class AttentionToScale(SegmentationModel):
    """DeepLab-LargeFOV on a trunk, shared by all scales, and a way to merge what it says at each.

    `forward_heads` returns, beside "out" and each at the image's size, the scores at every scale as "scale_1",
    "scale_0.5" and so on: the paper's loss is the sum of 1 + S cross-entropies, one for "out" and one for each of
    these, and the extra ones matter. Unless the fusion is "max", "weights" [N, S, h, w] are the weights at the size
    at which the scores were merged, that of the largest scale's map. A training step moves the trunk's running
    BatchNorm statistics once a scale.

    Args:
        scales: the largest first.
        fusion: "attention" weighs each pixel's scales by a learned softmax; "average" gives all of them the same
            weight; "max" takes each class's largest score. Only the first has an attention model.
    """

    def __init__(
        self,
        backbone: ResNetTrunk | MiniTrunk,
        num_classes: int,
        rate: int,
        scales: Sequence[float],
        fusion: Fusion,
        *,
        feature_channels: int = FEATURE_CHANNELS,
        feature_dropout: float = FEATURE_DROPOUT,
        attention_channels: int = ATTENTION_CHANNELS,
    ) -> None:
        super().__init__()
        check_scales(scales)
        if fusion not in get_args(Fusion):
            raise ValueError(f"fusion={fusion!r}: allowed are {', '.join(get_args(Fusion))}")
        self.scales, self.fusion = tuple(scales), fusion
        self.backbone = backbone
        self.features = ConvolutionalClassifier(
            backbone.channels[-1], feature_channels, 3, rate, dropout=feature_dropout
        )
        self.classifier = nn.Conv2d(feature_channels, num_classes, kernel_size=1)
        self.attention = (
            ScaleAttention(feature_channels, attention_channels, len(scales)) if fusion == "attention" else None
        )

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        check_images(images)  # [N, 3, 513, 513]
        features = [self.features(self.backbone(shrink(images, scale))[-1]) for scale in self.scales]  # 65x65, 33x33
        scores = [self.classifier(map_) for map_ in features]  # [N, 21, 65, 65], [N, 21, 33, 33]
        finest = features[0].shape[2:]
        features = [resize_features(map_, finest) for map_ in features]  # 2 of [N, 1024, 65, 65]
        scores = [resize_features(map_, finest) for map_ in scores]  # 2 of [N, 21, 65, 65]
        heads = {}
        if self.fusion == "max":
            merged = torch.stack(scores).amax(dim=0)  # [N, 21, 65, 65]
        else:
            heads["weights"] = self.attention(features) if self.attention is not None else uniform_weights(scores)
            merged = fuse_by_weights(scores, heads["weights"])  # [N, 2, 65, 65] -> [N, 21, 65, 65]
        for scale, score in zip(self.scales, scores, strict=True):
            heads[f"scale_{scale:g}"] = resize_features(score, images.shape[2:])  # [N, 21, 513, 513]
        heads["out"] = resize_features(merged, images.shape[2:])  # [N, 21, 513, 513]
        return heads


def uniform_weights(scores: Sequence[Tensor]) -> Tensor:
    """One over the number of scales, everywhere."""
    per_scale = [torch.full_like(score[:, :1], 1 / len(scores)) for score in scores]
    return torch.cat(per_scale, dim=1)


def check_scales(scales: Sequence[float]) -> None:
    """Refuse scales that are not at least two, falling, and in [0.25, 1]."""
    falling = all(large > small for large, small in pairwise(scales))
    if len(scales) < 2 or not falling or not all(0.25 <= scale <= 1 for scale in scales):
        raise ValueError(
            f"scales={scales!r}: allowed are two or more, the largest first, from 1 down to 0.25, such as (1, 0.5) or "
            "(1, 0.75, 0.5)"
        )


def attention_to_scale_resnet50(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    scales: Sequence[float] = SCALES,
    fusion: Fusion = "attention",
) -> AttentionToScale:
    """Attention to scale on torchvision's ResNet-50 (the paper: VGG-16), at output stride 8: 52,893,271 parameters."""
    plan = plan_dilation(8 if output_stride is None else output_stride, aspp_rates_at_16=(LARGE_FOV_RATE_AT_16,))
    trunk = ResNetTrunk(50, plan, pretrained=pretrained_backbone)
    return AttentionToScale(trunk, num_classes, plan.aspp_rates[0], scales, fusion)


def attention_to_scale_mini(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    scales: Sequence[float] = SCALES,
    fusion: Fusion = "attention",
) -> AttentionToScale:
    """Attention to scale under a million parameters: the same parts, narrow, at output stride 8 by default."""
    refuse_pretrained_mini(pretrained_backbone, "attention_to_scale_resnet50")
    plan = plan_dilation(8 if output_stride is None else output_stride, aspp_rates_at_16=(MINI_LARGE_FOV_RATE_AT_16,))
    return AttentionToScale(
        MiniTrunk(plan),
        num_classes,
        plan.aspp_rates[0],
        scales,
        fusion,
        feature_channels=MINI_FEATURE_CHANNELS,
        feature_dropout=MINI_FEATURE_DROPOUT,
        attention_channels=MINI_ATTENTION_CHANNELS,
    )
