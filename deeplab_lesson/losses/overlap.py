"""Losses that judge a class's whole region: how far it overlaps with the true one.

Logits [N, C, H, W], labels int64 [N, H, W] of class ids or `void`. Void pixels count nowhere, an all-void batch gives 0
with a zero gradient, and all is computed in float32, also under autocast (float64 stays). What they raise is said at
`read_batch`. A rare class weighs as much as a common one, since the mean is over classes:

    classes: "present" averages over the classes that the labels hold. "all" averages over all C: a class that no
        label holds then costs what is predicted of it.
    class_weights: [C]; the mean over classes is then a weighted one.

On several processes each takes the overlap in its own pictures; the mean of that is not the overlap in all pictures.
"""

from typing import Literal

import torch
from torch import Tensor

from deeplab_lesson.data.palette import VOID
from deeplab_lesson.losses.batch import Batch, divide, read_batch

Classes = Literal["present", "all"]


def dice_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    epsilon: float = 1e-6,
    squared: bool = False,
    classes: Classes = "present",
    class_weights: Tensor | None = None,
    void: int = VOID,
) -> Tensor:
    """Mean over classes of 1 - D, with D = (2 sum pg + epsilon) / (sum p + sum g + epsilon), sums over the batch.

    p is the softmax probability and g is 1 on the class's pixels, 0 elsewhere. On hard masks D is 2 IoU / (1 + IoU)
    but for epsilon. The articles' -D has the same gradient, and runs from -1 to 0.

    Args:
        epsilon: above 0. Without it a class that neither has pixels nor gets probability would be 0/0; with it,
            its loss is 0. It matters with classes="all" alone: take 1 there, since with a small one the loss of
            an absent class is 1 however little is predicted, and hardly has a gradient.
        squared: sum p² + sum g² below, as V-Net has it.
        classes, class_weights: see the module.

    Raises:
        ValueError: epsilon that is not above 0, or another word in classes.

    Source: Milletari, Navab, Ahmadi 2016 (V-Net, arXiv 1606.04797), section 3.
    """
    _check_classes(classes)
    if not epsilon > 0:
        raise ValueError(
            f"epsilon={epsilon}: allowed are numbers above 0, such as 1e-6; it keeps an empty mask from 0/0"
        )
    batch = read_batch(logits, labels, void, class_weights)
    with torch.autocast(logits.device.type, enabled=False):
        truth = batch.truth()
        p = batch.logits.softmax(dim=1) * batch.valid[:, None]
        every_pixel = (0, 2, 3)
        shared = (p * truth).sum(every_pixel)  # [C]
        pixels = truth.sum(every_pixel)
        predicted = (p**2 if squared else p).sum(every_pixel)
        losses = 1 - (2 * shared + epsilon) / (predicted + pixels + epsilon)
        return _mean_over_classes(losses, pixels > 0, batch.class_weights, classes)


def lovasz_softmax(
    logits: Tensor,
    labels: Tensor,
    *,
    per_image: bool = False,
    classes: Classes = "present",
    class_weights: Tensor | None = None,
    void: int = VOID,
) -> Tensor:
    """Mean over classes of a convex stand-in for 1 - IoU that has a gradient (the Lovász extension).

    A pixel's error is how far the class's softmax probability is from 1 or 0. The errors are sorted, and each is
    multiplied by what 1 - IoU gains when its pixel becomes wrong after those before it. On hard answers the loss is
    1 - IoU itself; of a class without pixels ("all") it is the highest probability.

    Args:
        per_image: take the IoU of each picture and average over those that are not all void; otherwise of the batch.
        classes, class_weights: see the module.

    Raises:
        ValueError: another word in classes.

    Source: Berman, Rannen Triki, Blaschko 2018 (arXiv 1705.08790), with its algorithm 1.
    """
    _check_classes(classes)
    batch = read_batch(logits, labels, void, class_weights)
    with torch.autocast(logits.device.type, enabled=False):
        if not per_image:
            return _lovasz(batch, classes)
        pictures = zip(batch.logits[:, None], batch.labels[:, None], batch.valid[:, None], strict=True)
        parts = [Batch(*picture, batch.class_weights) for picture in pictures]
        losses = torch.stack([_lovasz(part, classes) for part in parts])
        return divide(losses.sum(), batch.valid.flatten(1).any(dim=1).sum())


def _lovasz(batch: Batch, classes: Classes) -> Tensor:
    probabilities, truth = batch.logits.softmax(dim=1), batch.truth()
    present = truth.any(dim=3).any(dim=2).any(dim=0)  # [C]
    losses = [probabilities.sum() * 0] * len(present)
    # Sorting is what costs, so absent classes are left out, though the device must be asked which these are.
    for c, is_present in enumerate(present.tolist()):
        if not is_present and classes == "present":
            continue
        errors = (probabilities[:, c] - truth[:, c].to(probabilities)).abs().masked_fill(~batch.valid, 0).flatten()
        if is_present:
            order = errors.argsort(descending=True)
            losses[c] = (errors[order] * _jaccard_gains(truth[:, c].flatten()[order], errors.dtype)).sum()
        else:
            losses[c] = errors.max()
    return _mean_over_classes(torch.stack(losses), present, batch.class_weights, classes)


def _jaccard_gains(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """What 1 - IoU gains as the pixels, bool [P] in order, become wrong one after the other.

    A missed pixel of the class takes 1 from the intersection I: the gain is 1 / U. A pixel that is wrongly taken in
    adds 1 to the union U: I / (U - 1) - I / U. Algorithm 1 of the article takes differences of 1 - I / U, which
    are the same numbers but lose their digits in a million pixels.
    """
    intersection = truth.sum() - truth.cumsum(0)
    union = truth.sum() + (~truth).cumsum(0)
    return torch.where(truth, 1, intersection.to(dtype) / (union - 1).clamp(min=1)) / union


def _mean_over_classes(losses: Tensor, present: Tensor, class_weights: Tensor | None, classes: Classes) -> Tensor:
    counted = torch.ones_like(losses) if class_weights is None else class_weights
    if classes == "present":
        counted = counted * present
    return divide((losses * counted).sum(), counted.sum())


def _check_classes(classes: str) -> None:
    if classes not in ("present", "all"):
        raise ValueError(f"classes={classes!r}: allowed are 'present' (those that the labels hold) and 'all'")
