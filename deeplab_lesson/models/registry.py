"""Every model by name."""

import difflib
import fnmatch
import functools
import inspect
from collections.abc import Callable
from typing import Any

from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.models.deeplabv3plus import deeplabv3plus_mini, deeplabv3plus_resnet

_MODELS: dict[str, Callable[..., SegmentationModel]] = {
    "deeplabv3plus_mini": deeplabv3plus_mini,
    "deeplabv3plus_resnet18": functools.partial(deeplabv3plus_resnet, 18),
    "deeplabv3plus_resnet50": functools.partial(deeplabv3plus_resnet, 50),
    "deeplabv3plus_resnet101": functools.partial(deeplabv3plus_resnet, 101),
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
    **options: Any,
) -> SegmentationModel:
    """Build a model by name.

    Args:
        name: one of `list_models()`.
        num_classes: channels of the logits; background counts, void (255) does not.
        output_stride: None takes the model's own.
        pretrained_backbone: start the trunk from ImageNet weights.
        options: what the model's own builder takes, such as decoder=False.

    Raises:
        ValueError: unknown name (the nearest ones are named), impossible output stride or class count.
        TypeError: an option that this model does not have.
    """
    if name not in _MODELS:
        near = difflib.get_close_matches(name, _MODELS, n=3, cutoff=0.5)
        guess = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"there is no model {name!r}{guess} (all: {', '.join(list_models())})")
    if type(num_classes) is not int or not 1 <= num_classes <= 255:
        raise ValueError(
            f"num_classes={num_classes!r}: allowed are whole numbers from 1 to 255; count the background, "
            "do not count void (255)"
        )
    builder = _MODELS[name]
    known = set(inspect.signature(builder).parameters) - {"depth", "num_classes"}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise TypeError(f"{name} has no option {', '.join(unknown)}: allowed are {', '.join(sorted(known))}")
    model = builder(num_classes, output_stride=output_stride, pretrained_backbone=pretrained_backbone, **options)
    model.spec = {"name": name, "num_classes": num_classes, "output_stride": output_stride, **options}
    return model
