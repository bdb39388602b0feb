"""Scoring a model on a whole set, with one confusion matrix and one for each band width."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from deeplab_lesson.data.datasets import SegmentationDataset
from deeplab_lesson.data.transforms import as_tensor
from deeplab_lesson.layers.checks import is_whole
from deeplab_lesson.metrics import ConfusionMatrix, TrimapIoU
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training.answers import ONE_LOOK, check_scales, class_ids
from deeplab_lesson.training.crf_step import CRFChoice, read_crf


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on a set; shares from 0 to 1. A class or band that does not occur has None."""

    iou: dict[str, float | None]
    mean_iou: float
    pixel_accuracy: float
    trimap_mean_iou: dict[int, float | None]
    pictures: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any] | None) -> "Evaluation | None":
        """Return what `to_json` was made from; JSON turns the band widths into text."""
        if values is None:
            return None
        bands = {int(width): value for width, value in values["trimap_mean_iou"].items()}
        return cls(**{**values, "trimap_mean_iou": bands})

    def __str__(self) -> str:
        width = max(14, *(len(name) for name in self.iou)) + 2
        lines = [f"{'class':<{width}}{'IoU %':>7}"]
        lines += [f"{name:<{width}}{_percent(value):>7}" for name, value in self.iou.items()]
        lines += [
            f"{'mean IoU':<{width}}{100 * self.mean_iou:>7.1f}",
            f"{'pixel accuracy':<{width}}{100 * self.pixel_accuracy:>7.1f}",
        ]
        bands = ", ".join(f"{band} px {_percent(value)}" for band, value in self.trimap_mean_iou.items())
        return "\n".join([*lines, "mean IoU near boundaries, within", f"  {bands}", f"{self.pictures} pictures"])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _none_for_nan(share: float) -> float | None:
    return None if math.isnan(share) else share  # nan is not JSON


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and afterwards each of its parts back into the mode that it had."""
    were_training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in were_training:
            part.training = True


def as_tensors(image: NDArray[np.uint8], label: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Turn a picture of a set into uint8 [3, H, W] (the CRF wants it before it is normalized) and int64 [H, W]."""
    return as_tensor(image).permute(2, 0, 1), torch.from_numpy(label.astype(np.int64))


def check_same_classes(model: SegmentationModel, dataset: SegmentationDataset) -> None:
    """Refuse a set with another number of classes than the model.

    Raises:
        ValueError: says both.
    """
    classes = model.spec["num_classes"]
    if classes != len(dataset.classes):
        raise ValueError(
            f"the model has {classes} classes and the data {len(dataset.classes)} "
            f"({', '.join(dataset.classes)}): evaluate on data with the model's classes, or train on these"
        )


class _Evaluated(Dataset[tuple[Tensor, Tensor]]):
    """A set as tensors, whatever transform it has of its own."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return as_tensors(*self.dataset.read(index)[:2])


@torch.inference_mode()
def evaluate(
    model: SegmentationModel,
    dataset: SegmentationDataset,
    *,
    scales: Sequence[float] = ONE_LOOK,
    flip: bool = False,
    crf: CRFChoice | None = None,
    batch_size: int = 8,
    workers: int = 0,
    progress: Callable[[int], None] = lambda pictures: None,
    pool: Callable[[Sequence[Tensor]], None] = lambda counts: None,
) -> Evaluation:
    """Score a model on every picture of a set, at the picture's own size.

    Pictures of one size that follow one another go through the model together; none is padded or resized,
    since padding changes what image pooling sees.

    Args:
        scales, flip: average the probabilities over these sizes of the picture, and over its mirror images.
        crf: sharpen them with the fully connected CRF: a preset's name, a .json file, or parameters (`read_crf`).
        progress: called with the number of pictures done so far; may raise to stop.
        pool: called once with all confusion counts, to add to them in place what other processes have counted.

    Raises:
        ValueError: the model and the set differ in their number of classes, a picture that the model or the CRF
            refuses (named), a set in which every pixel is void, or as in `check_scales` and `read_crf`.
    """
    if not (is_whole(batch_size) and is_whole(workers)) or batch_size < 1 or workers < 0:
        raise ValueError(f"batch_size={batch_size}, workers={workers}: allowed are a batch from 1, workers from 0")
    scales, parameters = check_scales(scales), None if crf is None else read_crf(crf)
    check_same_classes(model, dataset)
    classes = len(dataset.classes)
    device = next(model.parameters()).device
    matrix = ConfusionMatrix(classes, device=device)
    trimap = TrimapIoU(classes, device=device)
    done = 0
    loader = DataLoader(_Evaluated(dataset), batch_size=None, num_workers=workers, generator=torch.Generator())
    with evaluating(model):
        for pictures, labels in _batches_of_one_size(loader, batch_size):
            labels = labels.to(device)
            try:
                predictions = class_ids(model, pictures.to(device), scales, flip, parameters)
            except ValueError as error:
                raise ValueError(f"picture {dataset.name(done)}: {error}") from error
            matrix.update(predictions, labels)
            trimap.update(predictions, labels)
            done += len(pictures)
            progress(done)
    pool([matrix.counts, *(band.counts for band in trimap.matrices.values())])
    if not matrix.counts.any():
        raise ValueError(f"every pixel of the {done} pictures is void: nothing can be scored; check the labels")
    return Evaluation(
        dict(zip(dataset.classes, map(_none_for_nan, matrix.iou.tolist()), strict=True)),
        matrix.mean_iou,
        matrix.pixel_accuracy,
        {width: _none_for_nan(value) for width, value in trimap.mean_iou.items()},
        done,
    )


def _batches_of_one_size(pictures: DataLoader[Any], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    waiting: list[Sequence[Tensor]] = []
    for picture in pictures:
        if waiting and (picture[0].shape != waiting[0][0].shape or len(waiting) == batch_size):
            yield torch.stack([p[0] for p in waiting]), torch.stack([p[1] for p in waiting])
            waiting = []
        waiting.append(picture)
    if waiting:
        yield torch.stack([p[0] for p in waiting]), torch.stack([p[1] for p in waiting])
