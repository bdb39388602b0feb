"""From one picture to its labels: with one look, or with several and the CRF."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deeplab_lesson.data.transforms import as_tensor, check_picture, normalize
from deeplab_lesson.layers.checks import check_whole
from deeplab_lesson.layers.resize import resize_labels
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training.answers import ONE_LOOK, SCALES, average_probabilities, class_ids
from deeplab_lesson.training.crf_step import CRFChoice, read_crf
from deeplab_lesson.training.evaluation import evaluating


def predict(model: SegmentationModel, image: NDArray[np.uint8], *, short_side: int | None = None) -> NDArray[np.uint8]:
    """Label one picture with one look at it.

    Args:
        model: put into eval mode for the call, and back afterwards.
        image: uint8 [H, W, 3], RGB, as `Image.open` or a data set gives it: not normalized.
        short_side: show the model the picture with this many pixels on its short side, and enlarge or reduce the
            labels again; None shows it as it is.

    Returns:
        Class ids, uint8 [H, W].

    Raises:
        TypeError: not uint8.
        ValueError: not [H, W, 3], or a short side that is no whole number from 1.
    """
    return predict_multiscale(model, image, ONE_LOOK, flip=False, short_side=short_side)


@torch.inference_mode()
def predict_multiscale(
    model: SegmentationModel,
    image: NDArray[np.uint8],
    scales: Sequence[float] = SCALES,
    flip: bool = True,
    *,
    crf: CRFChoice | None = None,
    short_side: int | None = None,
) -> NDArray[np.uint8]:
    """Label one picture by the mean of what the model says of it in several sizes, and mirrored.

    It costs what so many pictures cost: with the defaults 17 times one look (the squares of the scales, twice).

    Args:
        model, image, short_side: as in `predict`; the scales are relative to the picture that is shown.
        scales, flip: as in `average_probabilities`; (1,) and False is `predict`.
        crf: then sharpen the probabilities with the fully connected CRF: a preset's name, a .json file, or parameters.

    Returns:
        Class ids, uint8 [H, W].

    Raises:
        TypeError, ValueError: as in `predict`, `average_probabilities` and `read_crf`.
    """
    check_picture(image)
    if short_side is not None:
        check_whole("short_side", short_side, of="pixels")
    parameters = None if crf is None else read_crf(crf)
    shown = image if short_side is None else _scaled(image, short_side)
    with evaluating(model):
        labels = class_ids(model, _batch(model, shown), scales, flip, parameters)[0].to(torch.uint8)  # [h, w]
    if short_side is not None:
        labels = resize_labels(labels, image.shape[:2])  # [H, W]
    result: NDArray[np.uint8] = labels.cpu().numpy()
    return result


@torch.inference_mode()
def predict_probabilities(
    model: SegmentationModel, image: NDArray[np.uint8], scales: Sequence[float] = ONE_LOOK, flip: bool = False
) -> Tensor:
    """Return how probable each class is at each pixel, for the CRF, for thresholds, for a picture of doubt.

    Args:
        model, image: as in `predict`.
        scales, flip: as in `average_probabilities`.

    Returns:
        float32 [C, H, W] on the model's device; sums to 1 over C.

    Raises:
        TypeError, ValueError: as in `predict_multiscale`.
    """
    check_picture(image)
    with evaluating(model):
        return average_probabilities(model, normalize(_batch(model, image)), scales, flip)[0]


def _batch(model: SegmentationModel, image: NDArray[np.uint8]) -> Tensor:
    """The picture as uint8 [1, 3, H, W] on the model's device."""
    tensor = as_tensor(image).permute(2, 0, 1)[None]
    return tensor.to(next(model.parameters()).device)


def _scaled(image: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    size = tuple(int(short_side * side / min(height, width)) for side in (width, height))
    return np.array(Image.fromarray(image).resize((size[0], size[1]), Image.Resampling.BILINEAR))
