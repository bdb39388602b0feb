"""Panoptic-DeepLab's instances: what its heads shall say, how they are scored, and how objects are read off them.

Source: Cheng et al. 2020 (arXiv 1911.10194), section 3.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.data.palette import VOID
from deeplab_lesson.losses import cross_entropy

CENTER_SIGMA = 8.0  # pixels, section 3; on crops of 1025x2049, so take less for small pictures
CENTER_WEIGHT = 200.0  # of the heat map's loss, section 3
OFFSET_WEIGHT = 0.01  # of the offsets' loss, section 3
CENTER_THRESHOLD = 0.1  # authors' configuration; below it a peak is no center
CENTER_KERNEL = 7  # authors' configuration: a center is the highest value of its 7x7 window
MOST_CENTERS = 200  # authors' configuration


def panoptic_targets(instances: Tensor, *, sigma: float = CENTER_SIGMA) -> dict[str, Tensor]:
    """Turn instance maps into what the heads shall say.

    The center of an object is the mean position of its visible pixels, rounded to a pixel, so that the peak of
    the heat map and the end of the offsets are one place. (It may lie outside of the object: a ring's does.)

    Args:
        instances: integers [N, H, W]; 0 where there is no object.
        sigma: of the Gaussian around each center, in pixels. Where two meet, the higher value counts.

    Returns:
        "center": float32 [N, 1, H, W], 1 at the centers.
        "offset": float32 [N, 2, H, W]: how many pixels (down, right) to the center of the pixel's own object.
        "thing": bool [N, 1, H, W]: on an object; the offsets of the other pixels are 0 and count nowhere.

    Raises:
        ValueError: instances that are not [N, H, W] integers.
    """
    if instances.ndim != 3 or instances.is_floating_point():
        raise ValueError(
            f"instances are {instances.dtype} {list(instances.shape)}: allowed are integers [N, H, W], 0 where there "
            "is no object; add a batch dimension with instances[None]"
        )
    count, height, width = instances.shape
    device = instances.device
    rows = torch.arange(height, device=device, dtype=torch.float32)[:, None].expand(height, width)
    columns = torch.arange(width, device=device, dtype=torch.float32)[None].expand(height, width)
    center = torch.zeros(count, 1, height, width, device=device)
    offset = torch.zeros(count, 2, height, width, device=device)
    for picture, ids in enumerate(instances):
        for instance in ids.unique().tolist():
            if instance == 0:
                continue
            mask = ids == instance
            down, right = rows - rows[mask].mean().round(), columns - columns[mask].mean().round()
            gaussian = torch.exp(-(down.square() + right.square()) / (2 * sigma**2))
            center[picture, 0] = torch.maximum(center[picture, 0], gaussian)
            offset[picture, :, mask] = -torch.stack([down[mask], right[mask]])
    return {"center": center, "offset": offset, "thing": (instances != 0)[:, None]}


def panoptic_loss_terms(
    heads: Mapping[str, Tensor], labels: Tensor, targets: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Weigh what each head gets wrong; the loss is the sum of the three.

    Cross-entropy of the classes, 200 times the mean squared error of the heat map, 0.01 times the distance
    |down| + |right| of the offsets, mean over the pixels of objects. Void pixels count in none of them. (The
    paper gives the classes a cross-entropy over the hardest pixels, with more weight on small objects.)

    Args:
        heads: from `forward_heads`.
        labels: int64 [N, H, W], class ids and void.
        targets: from `panoptic_targets`.

    Returns:
        "out", "center", "offset": scalars.
    """
    valid = (labels != VOID)[:, None]  # [N, 1, H, W]
    thing = targets["thing"] & valid
    error = (heads["center"].float() - targets["center"]).square() * valid
    distance = (heads["offset"].float() - targets["offset"]).abs() * thing
    return {
        "out": cross_entropy(heads["out"], labels),
        "center": CENTER_WEIGHT * error.sum() / valid.sum().clamp(min=1),
        "offset": OFFSET_WEIGHT * distance.sum() / thing.sum().clamp(min=1),
    }


def panoptic_loss(heads: Mapping[str, Tensor], labels: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
    """Sum the terms of `panoptic_loss_terms`."""
    return torch.stack(list(panoptic_loss_terms(heads, labels, targets).values())).sum()


def find_centers(
    heat: Tensor,
    *,
    threshold: float = CENTER_THRESHOLD,
    kernel_size: int = CENTER_KERNEL,
    most: int = MOST_CENTERS,
) -> Tensor:
    """Find the peaks of a heat map [H, W]: non-maximum suppression, int64 [K, 2] (row, column), highest first."""
    highest = F.max_pool2d(heat[None, None], kernel_size, stride=1, padding=kernel_size // 2)[0, 0]
    peaks = ((heat == highest) & (heat > threshold)).nonzero()
    order = heat[peaks[:, 0], peaks[:, 1]].argsort(descending=True, stable=True)
    return peaks[order[:most]]


def group_pixels(centers: Tensor, offset: Tensor, thing: Tensor) -> Tensor:
    """Give each pixel of an object to the center that is nearest to where its offset points.

    Args:
        centers: [K, 2] (row, column).
        offset: [2, H, W] (down, right), in pixels.
        thing: bool [H, W].

    Returns:
        int64 [H, W]: 1..K, and 0 outside of `thing` and everywhere if there is no center.
    """
    instances = torch.zeros(thing.shape, dtype=torch.int64, device=thing.device)
    if len(centers):
        pointed = thing.nonzero() + offset[:, thing].T.float()  # [pixels, 2]
        nearest = torch.cdist(pointed, centers.float(), compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        instances[thing] = nearest + 1
    return instances


def majority_class(classes: Tensor, instances: Tensor) -> Tensor:
    """Give all pixels of an instance the class that most of them have: class ids [H, W] in and out."""
    on_instance = instances > 0
    if not bool(on_instance.any()):
        return classes
    number, width = int(instances.max()) + 1, int(classes.max()) + 1
    votes = torch.bincount((instances * width + classes)[on_instance], minlength=number * width)
    winner = votes.reshape(number, width).argmax(1)
    return torch.where(on_instance, winner[instances], classes)


@torch.no_grad()
def panoptic_map(heads: Mapping[str, Tensor], things: Iterable[int]) -> Tensor:
    """Read classes and objects off the three heads, without any learning.

    Peaks of the heat map are the objects; each thing pixel goes to the nearest peak after its offset; each object
    takes the class that most of its pixels have. Stuff keeps its class, with instance 0. Where a picture has
    thing pixels and no center, they become void: there is no object to give them to.

    Args:
        heads: from `forward_heads`: "out" [N, C, H, W], "center" [N, 1, H, W], "offset" [N, 2, H, W].
        things: the class ids that are objects.

    Returns:
        int64 [N, H, W, 2]: class and instance of every pixel, as `panoptic_quality` takes them.
    """
    maps = []
    ids = torch.tensor(sorted(things), device=heads["out"].device)
    for logits, center, offset in zip(heads["out"], heads["center"], heads["offset"], strict=True):
        classes = logits.argmax(0)  # [H, W]
        thing = torch.isin(classes, ids)
        instances = group_pixels(find_centers(center[0]), offset, thing)
        classes = majority_class(classes, instances).masked_fill(thing & (instances == 0), VOID)
        maps.append(torch.stack([classes, instances], dim=-1))
    return torch.stack(maps)
