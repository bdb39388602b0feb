"""Every model by name."""

import difflib
import fnmatch
import functools
import inspect
from collections.abc import Callable
from typing import Any

from deeplab_lesson.models.attention_to_scale import attention_to_scale_mini, attention_to_scale_resnet50
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.models.deeplabv1 import deeplabv1_mini, deeplabv1_vgg16
from deeplab_lesson.models.deeplabv2 import deeplabv2_mini, deeplabv2_resnet101, deeplabv2_vgg16
from deeplab_lesson.models.deeplabv3 import deeplabv3_mini, deeplabv3_resnet
from deeplab_lesson.models.deeplabv3plus import deeplabv3plus_mini, deeplabv3plus_resnet
from deeplab_lesson.models.deeplabv3plus_depthwise import deeplabv3plus_mobilenetv3, deeplabv3plus_xception65
from deeplab_lesson.models.fcn import fcn_mini, fcn_vgg16
from deeplab_lesson.models.panoptic import panoptic_deeplab_mini, panoptic_deeplab_resnet50
from deeplab_lesson.models.pyramids import fpn_mini, fpn_resnet50, pspnet_mini, pspnet_resnet50
from deeplab_lesson.models.segnet import segnet_mini, segnet_vgg16
from deeplab_lesson.models.torchvision_weights import BUILT_AS_THEIRS, check_published, fill_with_published
from deeplab_lesson.models.unet import unet, unet_mini

_MODELS: dict[str, Callable[..., SegmentationModel]] = {
    "attention_to_scale_mini": attention_to_scale_mini,
    "attention_to_scale_resnet50": attention_to_scale_resnet50,
    "deeplabv1_4x4": functools.partial(deeplabv1_vgg16, "4x4"),
    "deeplabv1_7x7": functools.partial(deeplabv1_vgg16, "7x7"),
    "deeplabv1_base": functools.partial(deeplabv1_vgg16, "base"),
    "deeplabv1_largefov": functools.partial(deeplabv1_vgg16, "largefov"),
    "deeplabv1_mini": deeplabv1_mini,
    "deeplabv2_mini": deeplabv2_mini,
    "deeplabv2_resnet101": deeplabv2_resnet101,
    "deeplabv2_vgg16": deeplabv2_vgg16,
    "deeplabv3_mini": deeplabv3_mini,
    "deeplabv3_resnet50": functools.partial(deeplabv3_resnet, 50),
    "deeplabv3_resnet101": functools.partial(deeplabv3_resnet, 101),
    "deeplabv3plus_mini": deeplabv3plus_mini,
    "deeplabv3plus_mobilenetv3": deeplabv3plus_mobilenetv3,
    "deeplabv3plus_resnet18": functools.partial(deeplabv3plus_resnet, 18),
    "deeplabv3plus_resnet50": functools.partial(deeplabv3plus_resnet, 50),
    "deeplabv3plus_resnet101": functools.partial(deeplabv3plus_resnet, 101),
    "deeplabv3plus_xception65": deeplabv3plus_xception65,
    "fcn16s_mini": functools.partial(fcn_mini, 1),
    "fcn16s_vgg16": functools.partial(fcn_vgg16, 1),
    "fcn32s_mini": functools.partial(fcn_mini, 0),
    "fcn32s_vgg16": functools.partial(fcn_vgg16, 0),
    "fcn8s_mini": functools.partial(fcn_mini, 2),
    "fcn8s_vgg16": functools.partial(fcn_vgg16, 2),
    "fpn_mini": fpn_mini,
    "fpn_resnet50": fpn_resnet50,
    "panoptic_deeplab_mini": panoptic_deeplab_mini,
    "panoptic_deeplab_resnet50": panoptic_deeplab_resnet50,
    "pspnet_mini": pspnet_mini,
    "pspnet_resnet50": pspnet_resnet50,
    "segnet_mini": segnet_mini,
    "segnet_vgg16": segnet_vgg16,
    "unet": unet,
    "unet_mini": unet_mini,
}


def list_models(pattern: str = "*") -> list[str]:
    """List the model names that match a shell pattern, such as "deeplabv3plus_*"."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def create_model(
    name: str,
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    weights: str | None = None,
    **options: Any,
) -> SegmentationModel:
    """Build a model by name.

    Args:
        name: one of `list_models()`.
        num_classes: channels of the logits, at least 2; background counts, void (255) does not.
        output_stride: None takes the model's own.
        pretrained_backbone: start the trunk from ImageNet weights.
        weights: "torchvision" fills DeepLab v3 with torchvision's published weights for VOC's 21 classes, and
            builds it as theirs is where the options say nothing else: output_stride=8, multi_grid=None,
            head_conv=True. They are downloaded on first use.
        options: what the model's own builder takes, such as decoder=False.

    Raises:
        ValueError: unknown name (the nearest ones are named), impossible output stride or class count, or weights
            that this model cannot have.
        TypeError: an option that this model does not have.
        ConnectionError: pretrained weights that cannot be downloaded.
    """
    if name not in _MODELS:
        near = difflib.get_close_matches(name, _MODELS, n=3, cutoff=0.5)
        guess = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"there is no model {name!r}{guess} (all: {', '.join(list_models())})")
    check_num_classes(num_classes)
    if weights is not None:
        check_published(weights, name, num_classes)
        theirs = {**BUILT_AS_THEIRS, **options}
        own_stride, options = theirs.pop("output_stride"), theirs
        output_stride, pretrained_backbone = output_stride or own_stride, False
    builder = _MODELS[name]
    known = set(inspect.signature(builder).parameters) - {"depth", "num_classes"}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise TypeError(f"{name} has no option {', '.join(unknown)}: allowed are {', '.join(sorted(known))}")
    model = builder(num_classes, output_stride=output_stride, pretrained_backbone=pretrained_backbone, **options)
    model.spec = {"name": name, "num_classes": num_classes, "output_stride": output_stride, **options}
    if weights is not None:
        fill_with_published(model, name)
    return model


def check_num_classes(num_classes: int) -> None:
    """Refuse a number of classes that softmax and labels of one byte cannot tell apart."""
    if type(num_classes) is int and num_classes == 1:
        raise ValueError(
            "num_classes=1: softmax over one class says that class everywhere; allowed are whole numbers from 2 to "
            "255. For one kind of object take 2 (0 background, 1 object) and name both in classes.txt; a sigmoid of "
            "one channel is the same model, its logit the difference of the two"
        )
    if type(num_classes) is not int or not 2 <= num_classes <= 255:
        raise ValueError(
            f"num_classes={num_classes!r}: allowed are whole numbers from 2 to 255; count the background, "
            "do not count void (255)"
        )
