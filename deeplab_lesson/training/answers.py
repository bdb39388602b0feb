"""What a model answers about pictures: one look, or the mean of several looks, and the CRF as a last step."""

import math
from collections.abc import Iterable, Sequence

from torch import Tensor

from deeplab_lesson.crf import CRFParameters
from deeplab_lesson.data.transforms import normalize
from deeplab_lesson.layers.resize import resize_features
from deeplab_lesson.models.base import SMALLEST_IMAGE, SegmentationModel
from deeplab_lesson.training.crf_step import refine

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # v3 section 4.2, and flips left to right
ONE_LOOK = (1.0,)
LARGEST_SCALE = 16.0  # a larger one is a slip, such as percent, and would fill the memory


def check_scales(scales: Iterable[float]) -> tuple[float, ...]:
    """Return the scales as floats.

    Raises:
        TypeError: not a sequence of numbers.
        ValueError: none, or one that is not above 0 and at most 16.
    """
    try:
        values = tuple(float(scale) for scale in scales)
    except (TypeError, ValueError):
        raise TypeError(f"scales={scales!r}: allowed is a sequence of numbers, such as (0.5, 0.75, 1)") from None
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(
            f"scales={values}: allowed are one or more finite numbers above 0, such as (0.5, 0.75, 1); (1,) shows "
            "the picture as it is"
        )
    if max(values) > LARGEST_SCALE:
        raise ValueError(
            f"scales={values}: allowed are factors of the size up to {LARGEST_SCALE:g}, such as (0.5, 0.75, 1); write "
            "0.5 for 50 percent"
        )
    return values


def class_ids(
    model: SegmentationModel,
    pictures: Tensor,
    scales: Sequence[float] = ONE_LOOK,
    flip: bool = False,
    crf: CRFParameters | None = None,
) -> Tensor:
    """Label a batch of pictures.

    Args:
        model: in eval mode.
        pictures: uint8 [N, 3, H, W], not normalized, on the model's device.
        scales, flip: as in `average_probabilities`.
        crf: sharpen the probabilities with the fully connected CRF; it sees the pictures in 0..255.

    Returns:
        int64 [N, H, W].
    """
    images = normalize(pictures)
    if check_scales(scales) == ONE_LOOK and not flip and crf is None:
        labels: Tensor = model(images).argmax(dim=1)  # softmax and mean would only round
        return labels
    probabilities = average_probabilities(model, images, scales, flip)
    if crf is not None:
        probabilities = refine(probabilities, pictures, crf)
    return probabilities.argmax(dim=1)


def average_probabilities(
    model: SegmentationModel, images: Tensor, scales: Sequence[float] = ONE_LOOK, flip: bool = False
) -> Tensor:
    """Show a model its images in several sizes, and also mirrored, and average what it says.

    Logits are resized to the image's size, turned into probabilities there, and then averaged, as the authors' code
    does. A mean of logits is another thing: it lets the one look that is surest, right or wrong, outvote the others.

    Args:
        model: in eval mode.
        images: normalized float [N, 3, H, W].
        scales: factors of the size; half a pixel counts as one.
        flip: look at every scale a second time, mirrored left to right.

    Returns:
        float32 [N, C, H, W]; sums to 1 over C.

    Raises:
        TypeError, ValueError: as in `check_scales`; a scale at which a side is below 33 pixels (the picture is not
            enlarged to 33: a scale would mean another thing for every picture); a model whose logits have not the
            image's size.

    Source: v3 (arXiv 1706.05587), section 4.2. (v2 takes the maximum of the scores over its scales, in training too.)
    """
    scales, size = check_scales(scales), images.shape[2:]
    views = [_scaled_size(size, scale) for scale in scales]  # refused before the first is computed
    total = images.new_zeros(())
    for view in views:
        shown = resize_features(images, view)  # [N, 3, h, w]
        total = total + _probabilities(model(shown), shown, size)  # [N, C, H, W]
        if flip:
            total = total + _probabilities(model(shown.flip(3)).flip(3), shown, size)
    return total / (len(views) * (1 + flip))


def _probabilities(logits: Tensor, shown: Tensor, size: Sequence[int]) -> Tensor:
    if logits.shape[2:] != shown.shape[2:]:
        raise ValueError(
            f"the model's logits are {logits.shape[2]}x{logits.shape[3]} for an image of {shown.shape[2]}x"
            f"{shown.shape[3]}: scales, flip and the CRF need logits of the image's size; take a model that pads "
            "(a U-Net with padding='same')"
        )
    return resize_features(logits.float(), size).softmax(dim=1)


def _scaled_size(size: Sequence[int], scale: float) -> tuple[int, int]:
    height, width = (int(side * scale + 0.5) for side in size)
    if scale != 1 and min(height, width) < SMALLEST_IMAGE:
        raise ValueError(
            f"at scale {scale:g} an image of {size[0]}x{size[1]} (height x width) is {height}x{width}: both must be "
            f"at least {SMALLEST_IMAGE}; leave out scales below {SMALLEST_IMAGE / min(size):.2f}, or enlarge the image"
        )
    return height, width
