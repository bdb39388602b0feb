"""Weights from other libraries: torchvision's DeepLab v3, to the same logits."""

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from deeplab_lesson.data.palette import VOC_CLASSES, VOC_PALETTE
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.models.deeplabv3 import DeepLabV3
from deeplab_lesson.models.registry import create_model
from deeplab_lesson.models.torchvision_weights import BUILT_AS_THEIRS, NAMES, copy_weights

SHORT_SIDE = 520  # pixels; what torchvision's own transform gives these models, in its training's evaluation too


def load_torchvision_weights(
    model_or_name: SegmentationModel | str, state_dict: Mapping[str, Tensor]
) -> SegmentationModel:
    """Put the weights of torchvision's deeplabv3_resnet50 or deeplabv3_resnet101 into our model.

    Args:
        model_or_name: a name builds the model as theirs is (output stride 8, ASPP rates (12, 24, 36), no
            multi-grid, head_conv=True), for the state dict's number of classes, in eval mode. A model is filled
            in place. Where it is built otherwise but with parameters of the same shapes (output stride 16,
            multi-grid), the weights are a start for training, and the logits are others.
        state_dict: of torchvision's model, with or without its auxiliary head.

    Returns:
        The model. Where it has no auxiliary head and the state dict does, a warning lists the keys that were
        skipped, and so does `model.skipped_weights`; aux_head=True takes them.

    Raises:
        ValueError: another name, another number of classes, other keys or shapes: the first differences are
            named, and the model is as it was.
        TypeError: a model that is no DeepLabV3, or a state dict that is none.

    Source: torchvision 0.26, models/segmentation/deeplabv3.py and fcn.py.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"the state dict is a {type(state_dict).__name__}: allowed is a mapping of names to tensors; "
            "use model.state_dict() or torch.load(file, weights_only=True)"
        )
    if isinstance(model_or_name, str):
        if model_or_name not in NAMES:
            raise ValueError(f"torchvision has no weights for {model_or_name!r}: allowed are {' and '.join(NAMES)}")
        last = state_dict.get("classifier.4.weight")
        classes = len(last) if isinstance(last, Tensor) and last.ndim else len(VOC_CLASSES)
        model = create_model(model_or_name, classes, **BUILT_AS_THEIRS).eval()
    else:
        model = model_or_name
    if not isinstance(model, DeepLabV3):
        raise TypeError(
            f"the model is a {type(model).__name__}: allowed is DeepLab v3, create_model({NAMES[0]!r}, "
            f"{', '.join(f'{option}={value!r}' for option, value in BUILT_AS_THEIRS.items())})"
        )
    model.skipped_weights = copy_weights(model, state_dict)
    if model.skipped_weights:
        warnings.warn(
            f"{len(model.skipped_weights)} weights of torchvision's auxiliary head were skipped, since the model has "
            f"none (aux_head=True takes them): {', '.join(model.skipped_weights)}",
            stacklevel=2,
        )
    return model


def published_model(name: str = NAMES[0], *, device: str = "cpu") -> tuple[SegmentationModel, dict[str, Any]]:
    """torchvision's published DeepLab v3 in our model, with the description that `load_checkpoint` gives of ours.

    Returns:
        The model in eval mode; and its metadata: model, classes, palette, and `short_side`, the size in pixels to
        which its pictures are scaled.

    Raises:
        ConnectionError: the weights are neither in torchvision's cache nor can they be downloaded.
    """
    model = create_model(name, weights="torchvision").eval().to(device)
    palette = VOC_PALETTE[: len(VOC_CLASSES)].tolist()
    return model, {
        "model": model.spec,
        "classes": list(VOC_CLASSES),
        "palette": palette,
        "short_side": SHORT_SIDE,
    }
