"""From one picture to its classes and its objects, with a model that tells objects apart."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from deeplab_lesson.data.transforms import check_picture, normalize
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.models.panoptic import PanopticDeepLab
from deeplab_lesson.models.panoptic_instances import panoptic_map
from deeplab_lesson.models.registry import list_models
from deeplab_lesson.training.evaluation import evaluating


@torch.inference_mode()
def predict_panoptic(
    model: SegmentationModel, image: NDArray[np.uint8], *, things: Iterable[int] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Label one picture, and number its objects.

    Args:
        model: a panoptic_deeplab_*; put into eval mode for the call, and back afterwards.
        image: uint8 [H, W, 3], RGB, not normalized.
        things: the class ids that are objects; by default all but 0, the background, as in Scenes and VOC.

    Returns:
        Class ids, uint8 [H, W]: 255 (void) where a pixel looks like an object and no object was found.
        Objects, uint16 [H, W]: 1, 2, ... and 0 where there is none. The pixels of an object have one class.

    Raises:
        TypeError: a model that tells no objects apart, or an image that is not uint8.
        ValueError: an image that is not [H, W, 3], or things that are no classes.
    """
    check_tells_objects_apart(model)
    check_picture(image)
    classes = model.spec["num_classes"]
    ids = sorted(set(range(1, classes) if things is None else things))
    if not all(0 <= thing < classes for thing in ids):
        raise ValueError(f"things hold the ids {ids}: allowed are class ids from 0 to {classes - 1}")
    with evaluating(model):
        heads = model.forward_heads(normalize(image)[None].to(next(model.parameters()).device))
    answer = panoptic_map(heads, ids)[0].cpu()  # [H, W, 2]
    return answer[..., 0].numpy().astype(np.uint8), answer[..., 1].numpy().astype(np.uint16)


def check_tells_objects_apart(model: SegmentationModel) -> None:
    """Refuse a model without heads for centers and offsets."""
    if not isinstance(model, PanopticDeepLab):
        raise TypeError(
            f"{model.spec['name']} gives classes and tells no objects apart: allowed are "
            f"{' and '.join(list_models('panoptic_*'))}; take one of these, or predict without panoptic"
        )
