"""From pictures to tensors: normalization, and the random scale, crop and flip of the papers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from deeplab_lesson.data.palette import VOID
from deeplab_lesson.layers.checks import check_holds_numbers, is_size
from deeplab_lesson.layers.resize import resize_labels

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB in 0..1: what torchvision's trunks were trained with
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(image: NDArray[np.uint8] | Tensor) -> Tensor:
    """Turn uint8 [H, W, 3] (array) or [..., 3, H, W] (tensor) into float32, ImageNet's mean 0 and deviation 1.

    Raises:
        TypeError: not uint8.
        ValueError: another shape, or no pixels.
    """
    if image.dtype not in (np.uint8, torch.uint8):
        raise TypeError(f"the image is {image.dtype}: allowed is uint8, 0 to 255; is it normalized already?")
    if isinstance(image, np.ndarray):
        check_picture(image)
        image = as_tensor(image).permute(2, 0, 1)
    elif image.ndim < 3 or image.shape[-3] != 3 or not image.numel():
        raise ValueError(
            f"the image is a tensor {list(image.shape)}: allowed is [..., 3, height, width], not empty; move the "
            "channels first with permute(2, 0, 1)"
        )
    mean, std = (torch.tensor(v, device=image.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (image.float() / 255 - mean) / std


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Turn any array into a tensor: PyTorch refuses negative strides, and computes little with uint16 and wider."""
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    whole = array.flags.c_contiguous and min(array.strides, default=0) >= 0  # NumPy lets one row have any stride
    return torch.from_numpy(array if whole else array.copy())


def denormalize(image: Tensor) -> NDArray[np.uint8]:
    """Turn one normalized [3, H, W] back into a picture, uint8 [H, W, 3].

    Raises:
        TypeError: no floats.
        ValueError: another shape, no pixels, or values that are not finite.
    """
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(
            f"the image is {list(image.shape)}: allowed is one normalized picture [3, height, width], not empty; take "
            "images[0] of a batch"
        )
    if not image.is_floating_point():
        raise TypeError(f"the image is {image.dtype}: allowed are floats, as `normalize` makes them")
    check_holds_numbers("the image's values", image)
    if not image.isfinite().all():
        raise ValueError(
            "the image holds nan or infinite values: allowed are finite numbers, as `normalize` makes them"
        )
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    picture = ((image.detach().cpu().float() * std + mean) * 255).round().clamp(0, 255)
    return picture.to(torch.uint8).permute(1, 2, 0).numpy()


def check_picture(image: NDArray[np.uint8]) -> None:
    """Refuse what is no RGB picture, uint8 [H, W, 3].

    Raises:
        TypeError: not uint8.
        ValueError: another shape, or no pixels.
    """
    seen = getattr(image, "dtype", type(image).__name__)
    if seen != np.uint8:
        raise TypeError(
            f"the image is {seen}: allowed is uint8 RGB from 0 to 255, np.array(Image.open(...).convert('RGB'))"
        )
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"the image has the shape {image.shape}: allowed is (height, width, 3), not empty")


def check_pair(image: NDArray[np.uint8], *maps: NDArray[Any]) -> None:
    """Refuse what is no picture with a map of integers (label, instances) of its height and width.

    Raises:
        TypeError: an image that is not uint8, a map that holds no integers.
        ValueError: other shapes.
    """
    check_picture(image)
    for ids in maps:
        if ids.dtype.kind not in "biu":
            raise TypeError(f"the label is {ids.dtype}: allowed are integers, the class ids, such as uint8")
        if ids.shape != image.shape[:2]:
            raise ValueError(
                f"the image is {image.shape} and its label {ids.shape}: allowed are (height, width, 3) and (height, "
                "width) of one size"
            )


class EvalTransform:
    """The picture as it is: image float32 [3, H, W], label int64 [H, W].

    Raises:
        TypeError, ValueError: as in `check_pair`.
    """

    def __call__(self, image: NDArray[np.uint8], label: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        check_pair(image, label)
        return normalize(image), torch.from_numpy(label.astype(np.int64))


@dataclass(frozen=True)
class TrainTransform:
    """Random scale, crop and flip; the result is image float32 [3, crop, crop] and label int64 [crop, crop].

    The window is cut first and resized after, so that the cost does not depend on the picture's size. Where the
    window reaches beyond the picture, the image continues with ImageNet's mean and the label with void (255):
    padding labels with 0 would teach "background" where there is nothing.

    Args:
        crop: (height, width) of the result.
        scale: range of the random zoom; v2 took 0.5 to 1.5, v3 and v3+ 0.5 to 2.0.
        flip: probability of a left-right flip.
        color_jitter: strength of random brightness, contrast and saturation; 0 turns it off (the papers).
        as_bytes: leave image and label in the type that they have in the set (uint8), for a training that normalizes
            on the GPU: a quarter of the bytes to send, and less work here. `normalize` makes the same numbers of it.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    color_jitter: float = 0.0
    as_bytes: bool = False

    def __post_init__(self) -> None:
        scale: Sequence[float] = self.scale
        if not is_size(self.crop) or len(scale) != 2 or not 0 < scale[0] <= scale[1] < float("inf"):
            raise ValueError(
                f"crop={self.crop}, scale={self.scale}: allowed are a crop (height, width) of positive numbers "
                "and a scale (smallest, largest) with 0 < smallest <= largest"
            )
        if not (0 <= self.flip <= 1 and 0 <= self.color_jitter <= 1):
            raise ValueError(f"flip={self.flip}, color_jitter={self.color_jitter}: allowed are numbers from 0 to 1")

    def __call__(
        self,
        image: NDArray[np.uint8],
        label: NDArray[np.uint8],
        generator: Generator | None = None,
        *,
        instances: NDArray[np.int32] | None = None,
    ) -> tuple[Tensor, ...]:
        """Draw one view. The same generator state gives the same view.

        Args:
            instances: [H, W], 0 where there is no object; the result has its view, int64, as a third part. Beyond the
                picture there is no object either.

        Raises:
            TypeError, ValueError: as in `check_pair`.
        """
        check_pair(image, label, *([] if instances is None else [instances]))
        from torchvision.transforms.v2 import functional as F  # late: the package loads without torchvision

        scale_draw, top_draw, left_draw, flip_draw = torch.rand(4, generator=generator).tolist()
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * scale_draw
        window = [max(1, round(side / scale)) for side in self.crop]
        top = _window_start(image.shape[0], window[0], top_draw)
        left = _window_start(image.shape[1], window[1], left_draw)
        pixels = as_tensor(_cut(image, top, left, window, _MEAN_COLOR)).permute(2, 0, 1)
        maps = [as_tensor(_cut(label, top, left, window, VOID))]
        if instances is not None:
            maps.append(as_tensor(_cut(instances, top, left, window, 0)))
        if window != list(self.crop):
            pixels = F.resize(pixels, list(self.crop), antialias=True)
            maps = [resize_labels(ids, self.crop) for ids in maps]
        if flip_draw < self.flip:
            pixels, maps = F.horizontal_flip(pixels), [F.horizontal_flip(ids) for ids in maps]
        if self.color_jitter:
            factors = 1 + self.color_jitter * (2 * torch.rand(3, generator=generator) - 1)
            for adjust, factor in zip(
                (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation), factors.tolist(), strict=True
            ):
                pixels = adjust(pixels, factor)
        if self.as_bytes:
            return pixels, *maps
        return normalize(pixels), *(ids.long() for ids in maps)


_MEAN_COLOR = np.array([round(255 * mean) for mean in IMAGENET_MEAN], dtype=np.uint8)


def _window_start(size: int, window: int, draw: float) -> int:
    """Place a window of `window` pixels in `size` (or the other way round where it is larger)."""
    room = size - window
    return min(0, room) + int(draw * (abs(room) + 1))


def _cut(picture: NDArray[Any], top: int, left: int, window: list[int], fill: NDArray[np.uint8] | int) -> NDArray[Any]:
    """Cut a window that may reach beyond the picture; what lies outside is `fill`."""
    height, width = window
    inside = picture[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)]
    if inside.shape[:2] == (height, width):
        return inside
    result = np.empty((height, width, *picture.shape[2:]), dtype=picture.dtype)
    result[...] = fill
    y, x = max(0, -top), max(0, -left)
    result[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return result
