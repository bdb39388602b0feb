"""Panoptic quality: how well things are found, told apart and outlined, and stuff with them, in one number."""

from collections.abc import Iterable

import torch
from torch import Tensor

from deeplab_lesson.data.palette import VOID
from deeplab_lesson.layers.checks import check_holds_numbers, check_whole


class PanopticQuality:
    """Segments matched by overlap, counted by class over a set.

    A map holds a (class, instance) pair a pixel. The pixels of a picture that share a pair are one segment; for
    stuff, which is not counted, the instance is ignored. A predicted and a true segment of one class whose IoU is
    above 1/2 are a match (TP; there can be only one for each), what is left over is FP or FN, and

        PQ = sum of the matches' IoU / (TP + FP/2 + FN/2) = SQ * RQ,  SQ = their mean IoU,  RQ = an F1 score

    Void in the labels counts nowhere: its pixels leave the predicted segments before the IoU, and an unmatched
    segment that lies on void by more than half is no FP. A prediction may hold void too ("no answer"); it wins
    nothing by that: the pixels are simply missing. (torchmetrics, where it is told to accept void in predictions,
    takes them out of the union and forgives segments that are mostly unanswered; panopticapi does not.)

    A class with no segment on either side has nan and does not enter the means, as in `ConfusionMatrix`.

    Args:
        things: the class ids that are counted as objects; all others are stuff.

    Source: Kirillov et al. 2019 (arXiv 1801.00868), sections 4.1 and 4.2.
    """

    def __init__(self, num_classes: int, *, things: Iterable[int], void: int = VOID) -> None:
        check_whole("num_classes", num_classes)
        self.num_classes = num_classes
        self.things = sorted(set(things))
        self.void = void
        wrong = [thing for thing in self.things if not 0 <= thing < num_classes]
        if wrong:
            raise ValueError(f"things hold the ids {wrong}: allowed are 0 to {num_classes - 1}")
        self.iou_sum = torch.zeros(num_classes, dtype=torch.float64)
        self.true_positives = torch.zeros(num_classes, dtype=torch.int64)
        self.false_positives = torch.zeros(num_classes, dtype=torch.int64)
        self.false_negatives = torch.zeros(num_classes, dtype=torch.int64)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Add pictures.

        Args:
            predictions: integers [N, H, W, 2] or [H, W, 2]: class and instance of every pixel.
            labels: the same shape.

        Raises:
            TypeError: not integers.
            ValueError: shapes differ or do not end in 2, or class ids outside the classes.
        """
        if any(pairs.is_floating_point() or pairs.is_complex() for pairs in (predictions, labels)):
            raise TypeError(
                f"predictions are {predictions.dtype} and labels {labels.dtype}: allowed are integers, "
                "(class, instance) a pixel"
            )
        if predictions.shape != labels.shape or labels.ndim not in (3, 4) or labels.shape[-1] != 2:
            raise ValueError(
                f"predictions are {list(predictions.shape)} and labels {list(labels.shape)}: both must be "
                "[N, H, W, 2] or [H, W, 2], (class, instance) last; use torch.stack([classes, instances], dim=-1)"
            )
        for kind, pairs in (("predictions", predictions), ("labels", labels)):
            check_holds_numbers(kind, pairs)
            classes = pairs[..., 0]
            outside = (classes != self.void) & ((classes < 0) | (classes >= self.num_classes))
            if bool(outside.any()):
                wrong = sorted(set(classes[outside].tolist()))
                raise ValueError(
                    f"{kind} hold the class ids {wrong[:8]}: allowed are 0 to {self.num_classes - 1} and "
                    f"{self.void} (void); the class comes first in a pair, the instance second"
                )
        pictures = predictions.reshape(-1, *predictions.shape[-3:]), labels.reshape(-1, *labels.shape[-3:])
        for predicted, true in zip(*pictures, strict=True):  # one by one: segments do not match across pictures
            self._add_picture(predicted.cpu().long(), true.cpu().long())

    def _add_picture(self, predicted: Tensor, true: Tensor) -> None:
        predicted_class, predicted_of = self._segments(predicted)
        true_class, true_of = self._segments(true)
        count = len(true_class)
        overlap = torch.bincount(predicted_of * count + true_of, minlength=len(predicted_class) * count)
        overlap = overlap.reshape(-1, count)  # [predicted segments, true segments], in pixels
        predicted_area, true_area = overlap.sum(1), overlap.sum(0)
        on_void = overlap[:, true_class == self.void].sum(1)
        union = (predicted_area - on_void)[:, None] + true_area[None] - overlap
        same_class = (predicted_class[:, None] == true_class[None]) & (true_class != self.void)
        match = same_class & (2 * overlap > union)
        found = match.any(0)
        invented = ~match.any(1) & (predicted_class != self.void) & (2 * on_void <= predicted_area)
        missed = ~found & (true_class != self.void)
        iou = torch.where(match, overlap.double() / union, 0).sum(0)[found]
        self.iou_sum.index_add_(0, true_class[found], iou)
        self.true_positives += torch.bincount(true_class[found], minlength=self.num_classes)
        self.false_positives += torch.bincount(predicted_class[invented], minlength=self.num_classes)
        self.false_negatives += torch.bincount(true_class[missed], minlength=self.num_classes)

    def _segments(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """The class of every segment of a picture, and the segment of every pixel (flat)."""
        classes, instances = pairs[..., 0].flatten(), pairs[..., 1].flatten()
        counted = torch.isin(classes, torch.tensor(self.things, dtype=classes.dtype))
        unique: tuple[Tensor, Tensor] = torch.unique(
            torch.stack([classes, instances * counted]), dim=1, return_inverse=True
        )
        return unique[0][0], unique[1]

    @property
    def segmentation_quality(self) -> Tensor:
        """SQ: the mean IoU of the matches by class, float64 [C]; 0 for a class without a match, nan if absent."""
        mean = self.iou_sum / self.true_positives.clamp(min=1)
        return torch.where(self._weight() > 0, mean, torch.nan)

    @property
    def recognition_quality(self) -> Tensor:
        """RQ: TP / (TP + FP/2 + FN/2) by class, float64 [C]; nan if absent."""
        return self.true_positives / self._weight()

    @property
    def quality(self) -> Tensor:
        """PQ by class, float64 [C]; nan if absent."""
        return self.iou_sum / self._weight()

    @property
    def mean(self) -> float:
        """The mean of `quality` over the classes that occur."""
        return self.quality.nanmean().item()

    @property
    def mean_things(self) -> float:
        """The mean of `quality` over the things that occur."""
        return self.quality[self.things].nanmean().item()

    @property
    def mean_stuff(self) -> float:
        """The mean of `quality` over the stuff that occurs."""
        stuff = [class_id for class_id in range(self.num_classes) if class_id not in self.things]
        return self.quality[stuff].nanmean().item()

    def _weight(self) -> Tensor:
        return self.true_positives + 0.5 * self.false_positives.double() + 0.5 * self.false_negatives.double()


def panoptic_quality(
    predictions: Tensor, labels: Tensor, num_classes: int, *, things: Iterable[int], void: int = VOID
) -> PanopticQuality:
    """Score maps [N, H, W, 2] of (class, instance) held in memory: read `mean` or, by class, `quality`.

    >>> labels = torch.tensor([[[0, 0], [1, 1], [1, 1], [1, 1], [1, 2], [255, 0]]])
    >>> answer = torch.tensor([[[0, 0], [0, 0], [1, 7], [1, 7], [1, 7], [1, 7]]])
    >>> panoptic_quality(answer, labels, 2, things=[1]).quality.tolist()
    [0.0, 0.0]
    """
    score = PanopticQuality(num_classes, things=things, void=void)
    score.update(predictions, labels)
    return score
