"""How an answer is scored: one confusion matrix over the whole set, and everything read off it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.data.palette import VOID
from deeplab_lesson.layers.checks import check_class_ids, check_holds_numbers, check_one_device, check_whole, is_whole
from deeplab_lesson.panoptic_quality import PanopticQuality, panoptic_quality

__all__ = [
    "TRIMAP_WIDTHS",
    "ConfusionMatrix",
    "PanopticQuality",
    "TrimapIoU",
    "panoptic_quality",
    "trimap_band",
    "trimap_iou",
]

TRIMAP_WIDTHS = (1, 2, 4, 8, 16)


class ConfusionMatrix:
    """Counts of pixels by true class (row) and predicted class (column), summed over a set.

    Void pixels count nowhere. A class that is neither in the labels nor in the predictions has no IoU (nan) and
    does not enter the mean; a class that is only predicted has IoU 0 and does.

    >>> matrix = ConfusionMatrix(2)
    >>> matrix.update(torch.tensor([[0, 0, 0, 1]]), torch.tensor([[0, 0, 1, 255]]))
    >>> matrix.iou.tolist(), round(matrix.pixel_accuracy, 3)
    ([0.6666666666666666, 0.0], 0.667)

    Raises:
        ValueError: num_classes that is no whole number from 1.

    Source: Long, Shelhamer, Darrell 2015 (arXiv 1411.4038), section 5; IoU as in PASCAL VOC.
    """

    def __init__(self, num_classes: int, *, void: int = VOID, device: torch.device | str = "cpu") -> None:
        check_whole("num_classes", num_classes)
        self.num_classes = num_classes
        self.void = void
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, predictions: Tensor, labels: Tensor, where: Tensor | None = None) -> None:
        """Add pictures.

        Args:
            predictions: class ids [N, H, W] or [H, W].
            labels: the same shape; void pixels are left out.
            where: bool, the same shape: only these pixels count.

        Raises:
            TypeError: class ids that are no integers, `where` that is not bool.
            ValueError: shapes or devices differ, or ids outside the classes.
        """
        if not _are_ids(predictions) or not _are_ids(labels):
            raise TypeError(
                f"predictions are {predictions.dtype} and labels {labels.dtype}: allowed are class ids (integers); "
                "turn logits into class ids with logits.argmax(dim=1)"
            )
        if predictions.shape != labels.shape or (where is not None and where.shape != labels.shape):
            raise ValueError(
                f"predictions are {list(predictions.shape)} and labels {list(labels.shape)}: they must have one shape, "
                "and so must `where`; turn logits into class ids with logits.argmax(dim=1), at the labels' size"
            )
        check_one_device("predictions", predictions, "labels", labels)
        check_holds_numbers("labels", labels)
        valid = labels != self.void
        if where is not None:
            if where.dtype != torch.bool:
                raise TypeError(f"where is {where.dtype}: allowed is bool, True for the pixels that count")
            check_one_device("where", where, "labels", labels)
            valid = valid & where
        true, predicted = labels[valid].long(), predictions[valid].long()
        void = f" and {self.void} (void)"
        for kind, ids, more in (("labels", true, void), ("predictions", predicted, "")):
            if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= self.num_classes):
                wrong = ids[(ids < 0) | (ids >= self.num_classes)].unique().tolist()  # type: ignore[no-untyped-call]
                raise ValueError(
                    f"{kind} hold the ids {wrong[:8]}: allowed are 0 to {self.num_classes - 1}{more}; "
                    "num_classes counts the background and does not count void"
                )
        pairs = torch.bincount(true * self.num_classes + predicted, minlength=self.num_classes**2)
        self.counts += pairs.reshape(self.num_classes, self.num_classes).to(self.counts.device)

    @property
    def iou(self) -> Tensor:
        """Intersection over union by class, float64 [C]; nan for a class that does not occur."""
        counts = self._counts()
        return counts.diag() / (counts.sum(0) + counts.sum(1) - counts.diag())

    @property
    def mean_iou(self) -> float:
        """The mean of `iou` over the classes that occur."""
        return self.iou.nanmean().item()

    @property
    def pixel_accuracy(self) -> float:
        """The share of valid pixels that are right."""
        counts = self._counts()
        return (counts.diag().sum() / counts.sum()).item()

    @property
    def mean_accuracy(self) -> float:
        """The mean over the true classes of the share of their pixels that are right."""
        counts = self._counts()
        return (counts.diag() / counts.sum(1)).nanmean().item()

    @property
    def frequency_weighted_iou(self) -> float:
        """`iou` averaged with the classes' shares of the labels as weights."""
        counts = self._counts()
        return (counts.sum(1) / counts.sum() * self.iou).nansum().item()

    def _counts(self) -> Tensor:
        return self.counts.cpu().double()  # on the CPU: Apple's GPUs have no float64


def _are_ids(values: Tensor) -> bool:
    return not (values.is_floating_point() or values.is_complex())


def trimap_band(labels: Tensor, width: int) -> Tensor:
    """Mark the pixels within `width` of a boundary: bool, the shape of `labels`, [N, H, W] or [H, W].

    A pixel is in the band if the (2 width + 1)-pixel square around it holds more than one label. Void is a label
    here, so that VOC's void contours are boundaries.

    Raises:
        TypeError: labels that are no integers.
        ValueError: labels of another rank or empty, a width that is no whole number from 1.
    """
    if not is_whole(width) or width < 1:
        raise ValueError(f"the band's width is {width}: allowed are whole numbers of pixels from 1")
    check_class_ids("labels", labels, "[H, W] or [N, H, W]", (2, 3))
    ids = labels.unsqueeze(-3).float()  # [N, 1, H, W]
    return (_highest_around(ids, width) != -_highest_around(-ids, width)).squeeze(-3)


def _highest_around(ids: Tensor, width: int) -> Tensor:
    """The largest value in the square around each pixel: of each column, then of each row of those."""
    columns = F.max_pool2d(ids, (2 * width + 1, 1), stride=1, padding=(width, 0))
    return F.max_pool2d(columns, (1, 2 * width + 1), stride=1, padding=(0, width))


class TrimapIoU:
    """mIoU of only the pixels near a boundary, for several band widths, each from one confusion matrix.

    Source: Kohli, Ladicky, Torr 2009; v1 section 5 and v3+ section 4.4 use it to measure boundaries.
    """

    def __init__(
        self, num_classes: int, widths: Sequence[int] = TRIMAP_WIDTHS, *, device: torch.device | str = "cpu"
    ) -> None:
        self.matrices = {width: ConfusionMatrix(num_classes, device=device) for width in widths}

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Add pictures: class ids [N, H, W] each."""
        for width, matrix in self.matrices.items():
            matrix.update(predictions, labels, where=trimap_band(labels, width))

    @property
    def mean_iou(self) -> dict[int, float]:
        """mIoU by band width in pixels."""
        return {width: matrix.mean_iou for width, matrix in self.matrices.items()}


def trimap_iou(
    predictions: Tensor, labels: Tensor, num_classes: int, widths: Sequence[int] = TRIMAP_WIDTHS
) -> dict[int, float]:
    """Compute the mIoU near boundaries by band width, for class ids [N, H, W] held in memory."""
    trimap = TrimapIoU(num_classes, widths)
    trimap.update(predictions, labels)
    return trimap.mean_iou
