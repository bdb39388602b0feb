"""Scoring a model on a whole set, with one confusion matrix and one for each band width."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from deeplab_lesson.data.datasets import SegmentationDataset
from deeplab_lesson.data.transforms import EvalTransform
from deeplab_lesson.metrics import ConfusionMatrix, TrimapIoU
from deeplab_lesson.models.base import SegmentationModel


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


class _Evaluated(Dataset[tuple[Tensor, Tensor]]):
    """A set as tensors, whatever transform it has of its own."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset, self.transform = dataset, EvalTransform()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(*self.dataset.read(index)[:2])


@torch.inference_mode()
def evaluate(
    model: SegmentationModel,
    dataset: SegmentationDataset,
    *,
    batch_size: int = 8,
    workers: int = 0,
    progress: Callable[[int], None] = lambda pictures: None,
) -> Evaluation:
    """Score a model on every picture of a set, at the picture's own size.

    Pictures of one size that follow one another go through the model together; none is padded or resized,
    since padding changes what image pooling sees.

    Args:
        progress: called with the number of pictures done so far; may raise to stop.

    Raises:
        ValueError: the model and the set differ in their number of classes, a picture that the model refuses
            (named), or a set in which every pixel is void.
    """
    if batch_size < 1 or workers < 0:
        raise ValueError(f"batch_size={batch_size}, workers={workers}: allowed are a batch from 1, workers from 0")
    classes = model.spec["num_classes"]
    if classes != len(dataset.classes):
        raise ValueError(
            f"the model has {classes} classes and the data {len(dataset.classes)} "
            f"({', '.join(dataset.classes)}): evaluate on data with the model's classes, or train on these"
        )
    device = next(model.parameters()).device
    matrix = ConfusionMatrix(classes, device=device)
    trimap = TrimapIoU(classes, device=device)
    done = 0
    loader = DataLoader(_Evaluated(dataset), batch_size=None, num_workers=workers, generator=torch.Generator())
    with evaluating(model):
        for images, labels in _batches_of_one_size(loader, batch_size):
            labels = labels.to(device)
            try:
                predictions = model(images.to(device)).argmax(dim=1)
            except ValueError as error:
                raise ValueError(f"picture {dataset.name(done)}: {error}") from error
            matrix.update(predictions, labels)
            trimap.update(predictions, labels)
            done += len(images)
            progress(done)
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
