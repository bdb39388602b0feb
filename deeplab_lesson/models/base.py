"""What every segmentation model of this package promises."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deeplab_lesson.layers.checks import check_alike
from deeplab_lesson.layers.one_call import kept_as_one_call

SMALLEST_IMAGE = 33


class SegmentationModel(nn.Module):
    """A network whose `forward(images)` returns logits [N, C, H, W] at the size of the images.

    Attributes:
        spec: the arguments of `create_model` that make this model again.
    """

    spec: dict[str, Any]

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return everything that training needs; the key "out" is what `forward` returns."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Map images, normalized float [N, 3, H, W] with H and W at least 33, to logits [N, C, H, W].

        Raises:
            TypeError, ValueError: as in `check_images` and `check_like_weights`.
        """
        check_like_weights(images, next(self.parameters(), None))
        return self.forward_heads(images)["out"]

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters that start from nothing even when the trunk is pretrained."""
        trunk = {id(parameter) for parameter in self.backbone.parameters()}  # type: ignore[union-attr]
        return [parameter for parameter in self.parameters() if id(parameter) not in trunk]


@kept_as_one_call
def check_like_weights(images: Tensor, weight: Tensor | None) -> None:
    """Refuse images on another device than the model's weights or, outside of autocast, of another type.

    Raises:
        TypeError: floats of another type.
        ValueError: another device.
    """
    if torch.compiler.is_compiling() or weight is None:  # a replica of nn.DataParallel has no parameters
        return
    if images.is_floating_point() and images.ndim == 4 and min(images.shape[2:]) >= SMALLEST_IMAGE:
        # of others `check_images` says more
        check_alike("images", images, "the model's weights", weight)


@kept_as_one_call
def check_images(images: Tensor) -> None:
    """Refuse what is not a batch of RGB pictures of a usable size.

    Raises:
        TypeError: not floating point.
        ValueError: not [N, 3, H, W], or smaller than 33 pixels.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images have the shape {list(images.shape)}: allowed is [N, 3, H, W] (RGB); "
            "add a batch dimension with images[None], or move the channels first with permute(0, 3, 1, 2)"
        )
    if not images.is_floating_point():
        raise TypeError(
            f"images are {images.dtype}: allowed is floating point, normalized with ImageNet's mean and standard "
            "deviation; use deeplab_lesson.data.EvalTransform or normalize()"
        )
    if min(images.shape[2:]) < SMALLEST_IMAGE:
        raise ValueError(
            f"images are {images.shape[2]}x{images.shape[3]} (height x width): both must be at least "
            f"{SMALLEST_IMAGE}; enlarge them first"
        )


def refuse_pretrained(pretrained_backbone: bool, trunk: str = "the mini trunk") -> None:
    """Refuse `pretrained_backbone=True` for a system whose trunk exists nowhere with ImageNet weights."""
    if pretrained_backbone:
        raise ValueError(
            f"pretrained_backbone=True: there are no ImageNet weights for {trunk}; allowed with the resnet and vgg16 "
            "models; take pretrained_backbone=False, or one of those"
        )


def check_output_stride(output_stride: int | None, only: int, reason: str) -> None:
    """Refuse another output stride than the one that the system has."""
    if output_stride is not None and (type(output_stride) is not int or output_stride != only):
        raise ValueError(
            f"output_stride={output_stride!r} is not possible: {reason}, which allows {only}; take {only} or None"
        )


def weight_differences(wanted: Mapping[str, Tensor], given: Mapping[str, Any]) -> list[str]:
    """Say how a state dict differs from the one that a model wants, in names and shapes; empty where it fits."""
    lines = [f"no {name}" for name in sorted(wanted.keys() - given.keys())]
    lines += [f"an extra {name}" for name in sorted(map(str, given.keys() - wanted.keys()))]
    for name in sorted(wanted.keys() & given.keys()):
        value = given[name]
        if not isinstance(value, Tensor):
            lines.append(f"{name} a {type(value).__name__} where the model has a tensor")
        elif wanted[name].shape != value.shape:
            lines.append(f"{name} {list(value.shape)} where the model has {list(wanted[name].shape)}")
    return lines
