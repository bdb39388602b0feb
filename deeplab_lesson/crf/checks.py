"""What the fully connected CRF refuses, each with a text that says how to mend it."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from deeplab_lesson.layers.checks import check_alike, check_holds_numbers, check_one_device

NORMALIZATIONS = ("symmetric", "after")


def check_inputs(logits: Tensor, images: Tensor) -> None:
    """Refuse logits and images that do not fit each other or the model's units.

    Raises:
        TypeError: logits that are not floating point.
        ValueError: shapes that differ, fewer than two classes, nan or infinite logits, a normalized image.
    """
    sizes = [(tensor.shape[:1], tensor.shape[2:]) for tensor in (logits, images)]
    if logits.ndim != 4 or images.ndim != 4 or sizes[0] != sizes[1] or not logits.numel() or not images.numel():
        raise ValueError(
            f"logits are {list(logits.shape)} and images {list(images.shape)}: allowed are [N, C, H, W] and "
            "[N, channels, H, W] of one N, H and W, not empty; add a batch dimension with [None], and resize the "
            "logits to the image"
        )
    if not logits.is_floating_point():
        raise TypeError(f"logits are {logits.dtype}: allowed is floating point, the network's output before softmax")
    if logits.shape[1] < 2:
        raise ValueError(f"logits are {list(logits.shape)}: allowed are two classes or more (count the background)")
    if logits.device != images.device:
        raise ValueError(f"logits are on {logits.device} and images on {images.device}: move one of them with .to()")
    check_holds_numbers("logits", logits)
    if images.is_complex():
        raise TypeError(f"images are {images.dtype}: allowed are numbers from 0 to 255, floats or uint8")
    low, high = (float(value) for value in torch.aminmax(logits.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = (~logits.isfinite()).nonzero()
        raise ValueError(
            f"{len(bad)} logits are nan or infinite, the first at {bad[0].tolist()} [n, c, y, x]: allowed are finite "
            "numbers; take them before log and softmax, or clamp them"
        )
    _check_image_range(images)
    if low >= 0 and high <= 1:
        _warn_of_probabilities(logits)


def _check_image_range(images: Tensor) -> None:
    low, high = (float(value) for value in torch.aminmax(images.detach()))
    if not (low >= 0 and high <= 255):  # also refuses nan
        raise ValueError(
            f"image values go from {low:g} to {high:g}: allowed is 0 to 255, the unit of appearance_sigma_rgb; "
            "undo the normalization (deeplab_lesson.data.denormalize), or give the uint8 picture"
        )
    if images.is_floating_point() and 0 < high <= 1.5:
        raise ValueError(
            f"image values go from {low:g} to {high:g}, which looks like 0 to 1: allowed is 0 to 255, the unit of "
            "appearance_sigma_rgb; multiply by 255"
        )


def _warn_of_probabilities(logits: Tensor) -> None:
    if bool(((logits.detach().float().sum(1) - 1).abs() < 1e-3).all()):
        warnings.warn(
            "the logits lie between 0 and 1 and sum to 1 at every pixel: these look like probabilities. The CRF takes "
            "the network's output before softmax; give probabilities.log()",
            stacklevel=5,
        )


def check_points(features: Tensor, group: Tensor | None, farthest: float) -> None:
    """Refuse points that cannot be laid into cells.

    Args:
        features: float [P, d], in units of sigma.
        group: int64 [P], or None.
        farthest: the largest coordinate; beyond it numbers have no digits left for the place within a cell.

    Raises:
        TypeError: features that are no floats, groups that are no integers.
        ValueError: other shapes, no points, features that are not finite or too far out, negative groups.
    """
    if features.ndim != 2 or not features.numel():
        raise ValueError(f"features are {list(features.shape)}: allowed is [points, dimensions], at least one of each")
    if not features.is_floating_point():
        raise TypeError(f"features are {features.dtype}: allowed are floats, in units of sigma")
    check_holds_numbers("features", features)
    largest = max(abs(float(value)) for value in torch.aminmax(features.detach()))
    if not largest <= farthest:  # also refuses nan
        raise ValueError(
            f"features reach {largest:g} sigma: allowed are finite numbers up to {farthest:g}; they are divided by "
            "sigma, so take a larger sigma"
        )
    if group is None:
        return
    if group.shape != features.shape[:1] or group.device != features.device:
        raise ValueError(
            f"group is {list(group.shape)} on {group.device} and features {list(features.shape)} on {features.device}: "
            "allowed is one number a point, [points], on one device"
        )
    if group.dtype != torch.int64 or int(group.min()) < 0:
        raise TypeError(f"group is {group.dtype}: allowed are whole numbers from 0, int64, one for each point")


def check_marginals(marginals: Tensor, logits: Tensor) -> None:
    """Refuse what is no probability, or lies on another device than the logits.

    Raises:
        TypeError: no floats.
        ValueError: another device, or numbers outside of 0 to 1.
    """
    if not marginals.is_floating_point():
        raise TypeError(f"marginals are {marginals.dtype}: allowed are floats, the probabilities of the labels")
    check_one_device("marginals", marginals, "logits", logits)
    low, high = (float(value) for value in torch.aminmax(marginals.detach()))
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also refuses nan
        raise ValueError(f"marginals go from {low:g} to {high:g}: allowed is 0 to 1; take the softmax of logits")


def check_values(values: Tensor, points: int, weights: Tensor) -> None:
    """Refuse values that a kernel between so many points cannot filter.

    Raises:
        TypeError: another type than the features'.
        ValueError: another shape or device.
    """
    if values.ndim != 2 or len(values) != points or not values.numel():
        raise ValueError(f"values are {list(values.shape)}: allowed is [{points}, L], a row for each point")
    check_alike("values", values, "the features", weights)


def check_normalization(normalization: str) -> None:
    """Refuse a name that is none of the two conventions."""
    if normalization not in NORMALIZATIONS:
        raise ValueError(
            f'normalization={normalization!r}: allowed are "symmetric" (pydensecrf) and "after" (DeepLab v1 and v2)'
        )


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not among those that an argument takes."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: allowed are {', '.join(map(repr, allowed))}")


def check_sigma(name: str, value: float) -> None:
    """Refuse a width that is not a finite number above zero."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"{name}={value}: allowed are finite numbers above 0; to leave a kernel out, set its weight to 0"
        )


def check_weight(name: str, value: float) -> None:
    """Refuse a weight that is negative or no number."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(
            f"{name}={value}: allowed are finite numbers from 0; a kernel that pushes labels apart is made with "
            "negative penalties in compatibility"
        )


def check_iterations(iterations: Any) -> None:
    """Refuse a count of iterations that is no whole number from 0."""
    if type(iterations) is not int or iterations < 0:
        raise ValueError(f"iterations={iterations!r}: allowed are whole numbers from 0 (0 gives the softmax)")


def check_compatibility(compatibility: Any, num_classes: int, device: torch.device) -> None:
    """Refuse penalties that are not one finite number for each unordered pair of classes."""
    if not isinstance(compatibility, Tensor) or compatibility.is_complex():
        seen = getattr(compatibility, "dtype", type(compatibility).__name__)
        raise TypeError(
            f"compatibility is {seen}: allowed is a tensor of numbers, such as 1 - torch.eye({num_classes})"
        )
    if compatibility.shape != (num_classes, num_classes):
        raise ValueError(
            f"compatibility is {list(compatibility.shape)} and there are {num_classes} classes: allowed is "
            f"[{num_classes}, {num_classes}], the penalty for each pair of labels (Potts: 1 - torch.eye({num_classes}))"
        )
    if compatibility.device != device:
        raise ValueError(f"compatibility is on {compatibility.device} and the logits on {device}: move it with .to()")
    values = compatibility.detach().float()
    if not bool(values.isfinite().all()):
        raise ValueError("compatibility holds nan or infinite penalties: allowed are finite numbers")
    difference = float((values - values.T).abs().max())
    if difference > 1e-6 * max(1.0, float(values.abs().max())):
        raise ValueError(
            f"compatibility is not symmetric (entries differ by up to {difference:g}): a pair has one penalty, "
            "whichever label comes first; take (m + m.T) / 2"
        )
