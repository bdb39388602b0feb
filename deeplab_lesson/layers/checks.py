"""What is refused before anything is computed: numbers that are not whole, sizes that are none, tensors that misfit.

They look at shapes, types and devices alone, never at the numbers in a tensor: a GPU need not be waited for.
"""

from numbers import Integral
from typing import Any

import torch
from torch import Tensor


def check_whole(name: str, value: Any, least: int = 1, *, of: str = "") -> None:
    """Refuse what is no whole number of at least `least`.

    Args:
        of: what is counted, such as "pixels".

    Raises:
        ValueError: says the name, the value and what is allowed.
    """
    if not is_whole(value) or value < least:
        raise ValueError(f"{name}={value!r}: allowed are whole numbers{of and f' of {of}'} from {least}")


def check_size(name: str, size: Any, least: int = 1) -> None:
    """Refuse what is not two whole numbers, (height, width).

    Raises:
        ValueError: as `check_whole`.
    """
    if not is_size(size, least):
        raise ValueError(
            f"{name}={size!r}: allowed are two whole numbers from {least}, (height, width), such as (65, 97)"
        )


def is_size(size: Any, least: int = 1) -> bool:
    """True for two whole numbers of at least `least`."""
    return isinstance(size, tuple | list) and len(size) == 2 and all(is_whole(side) and side >= least for side in size)


def is_whole(value: Any) -> bool:
    """True for whole numbers of Python and NumPy; neither True nor 2.0 is one."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_class_ids(name: str, ids: Any, shapes: str, ranks: tuple[int, ...]) -> None:
    """Refuse a map of class ids that holds no integers, has another rank or is empty.

    Args:
        shapes: the allowed shapes in words, such as "[H, W] or [N, H, W]".
        ranks: and their numbers of dimensions.

    Raises:
        TypeError: no tensor of integers.
        ValueError: another rank, an empty map, or one on the meta device.
    """
    seen = getattr(ids, "dtype", type(ids).__name__)
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex():
        raise TypeError(
            f"{name} are {seen}: allowed are class ids, a tensor of integers; turn logits into class ids with "
            "logits.argmax(dim=1), or numbers into integers with .long()"
        )
    if ids.ndim not in ranks or not ids.numel():
        raise ValueError(f"{name} are {list(ids.shape)}: allowed is {shapes}, not empty; add or take away dimensions")
    check_holds_numbers(name, ids)


def check_features(features: Tensor, weight: Tensor | None = None) -> None:
    """Refuse what is no map [N, C, H, W] of floats, or one that a convolution with `weight` cannot read.

    Args:
        weight: [out, C, kh, kw]; under autocast its type may be another one.

    Raises:
        TypeError: no floats, or of another type than the weight.
        ValueError: another rank, an empty map, another number of channels or another device than the weight's.
    """
    if torch.compiler.is_compiling():  # the sizes of a program are symbols; it was tried before
        return
    if features.ndim != 4 or not features.numel():
        raise ValueError(
            f"features are {list(features.shape)}: allowed is [N, C, H, W], not empty; add a batch dimension with "
            "features[None]"
        )
    if not features.is_floating_point():
        raise TypeError(f"features are {features.dtype}: allowed are floats; use features.float()")
    if weight is None or weight.ndim != 4:  # in a replica of nn.DataParallel, or flattened and shared out
        return
    if features.shape[1] != weight.shape[1]:
        raise ValueError(
            f"features are {list(features.shape)}: allowed are {weight.shape[1]} channels, [N, {weight.shape[1]}, H, "
            "W], which the layer was built for (in_channels)"
        )
    check_alike("features", features, "the layer's weights", weight)


def check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse two tensors of floats on two devices, or of two types outside of autocast.

    Raises:
        TypeError: other types.
        ValueError: other devices.
    """
    check_one_device(name, tensor, other_name, other)
    if tensor.dtype != other.dtype and not torch.is_autocast_enabled(tensor.device.type):
        raise TypeError(
            f"{name} are {tensor.dtype} and {other_name} {other.dtype}: allowed is one type for both; convert one of "
            f"them with .to({other.dtype})"
        )


def check_one_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse two tensors on two devices.

    Raises:
        ValueError: names both devices.
    """
    if tensor.device != other.device:
        raise ValueError(
            f"{name} are on {tensor.device} and {other_name} on {other.device}: allowed is one device; move one of "
            "them with .to()"
        )


def check_holds_numbers(name: str, tensor: Tensor) -> None:
    """Refuse a tensor of the meta device, which has a shape and no numbers.

    Raises:
        ValueError: as said.
    """
    if tensor.is_meta:
        raise ValueError(
            f"{name} are on the meta device, which holds shapes and no numbers: allowed are tensors on the CPU or a "
            "GPU; make them there, or load weights first"
        )
