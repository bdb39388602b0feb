"""Pseudo labels: a teacher labels pictures that nobody has labeled, and a student learns from both kinds.

The teacher is a network that was trained on the few labeled pictures. Where it is sure, its answer is taken for the
label; elsewhere the pixel is void. The student, trained on all pictures under random views, is the next teacher
(`self_train`).

None of DeepLab v1 to v3+ does this, as some articles say. Naive-Student (Chen et al. 2020, arXiv 2005.10266) does,
with Panoptic-DeepLab.
"""

import bisect
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from deeplab_lesson.data.datasets import SegmentationDataset, Transform
from deeplab_lesson.data.files import PICTURE_ENDINGS, picture_files, read_image
from deeplab_lesson.data.palette import VOC_PALETTE, VOID
from deeplab_lesson.data.transforms import normalize
from deeplab_lesson.layers.checks import check_whole
from deeplab_lesson.training.evaluation import evaluating

Thresholds = float | Sequence[float]


class UnlabeledPictures(SegmentationDataset):
    """The pictures of a folder, for which there are no labels: every pixel is void.

    Args:
        classes: the names, by class id, that the teacher knows.

    Raises:
        FileNotFoundError: no such folder, or one without pictures.
    """

    def __init__(self, folder: str | Path, classes: Sequence[str], palette: NDArray[np.uint8] = VOC_PALETTE) -> None:
        self.classes, self.palette = tuple(classes), palette
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder} is not a folder: give the one that holds the pictures")
        self.files = picture_files(Path(folder))
        if not self.files:
            raise FileNotFoundError(f"{folder} holds no picture: allowed endings are {', '.join(PICTURE_ENDINGS)}")

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index].stem

    def read(self, index: int) -> tuple[NDArray[Any], ...]:
        image = read_image(self.files[index], upright=True)
        return image, np.full(image.shape[:2], VOID, np.uint8)


class PseudoLabels(SegmentationDataset):
    """The pictures of a set with a teacher's answers as labels; the set's own labels are not looked at.

    A pixel whose probability is below its class's threshold is void. All pictures are labeled at once, so that the
    teacher may change afterwards; the labels take one byte a pixel of memory.

    Args:
        dataset: the pictures, and the classes in the teacher's order.
        teacher: maps normalized images [N, 3, H, W] to logits [N, C, H, W]; put into eval mode meanwhile.
        thresholds: one for all classes, or one for each, from 0 to 1 (`class_thresholds`).
        transform: called with (image, label).

    Attributes:
        kept: the share of the pixels that have a label.

    Raises:
        ValueError: no pictures, thresholds of another number than classes or outside of 0 to 1, a teacher for another
            number of classes, logits that are not finite, or no pixel that reaches its threshold.

    Source: Lee 2013, "Pseudo-Label"; thresholds by class: Zou et al. 2018 (arXiv 1810.07911).
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        teacher: nn.Module,
        thresholds: Thresholds = 0.9,
        *,
        transform: Transform | None = None,
    ) -> None:
        self.dataset, self.transform = dataset, transform
        self.classes, self.palette = dataset.classes, dataset.palette
        self.thresholds = thresholds_by_class(thresholds, dataset.classes)
        self.labels: list[NDArray[np.uint8]] = []
        surest = 0.0
        for classes, confidences in _answers(dataset, teacher):
            surest = max(surest, float(confidences.max()))
            self.labels.append(np.where(confidences >= self.thresholds[classes], classes, VOID).astype(np.uint8))
        labeled = sum(int((label != VOID).sum()) for label in self.labels)
        self.kept = labeled / sum(label.size for label in self.labels)
        if not labeled:
            raise ValueError(
                f"the teacher's highest probability in {len(dataset)} pictures is {surest:.3g} and the thresholds are "
                f"{', '.join(f'{value:.3g}' for value in self.thresholds)}, so that no pixel would have a label: lower "
                "them, or train the teacher longer"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def read(self, index: int) -> tuple[NDArray[Any], ...]:
        """Return image uint8 [H, W, 3] and the teacher's label uint8 [H, W]."""
        label = self.labels[index]  # refuses an index beyond the end
        return self.dataset.read(index)[0], label


def class_thresholds(
    dataset: SegmentationDataset, teacher: nn.Module, share: float = 0.5, *, pixel_stride: int = 1
) -> list[float]:
    """Find, for each class, the probability that the surest `share` of the pixels given to it reach.

    One threshold for all classes takes mostly easy classes; so every class keeps its part. CBST also divides the
    probabilities by the thresholds before it looks for the largest; here the label stays the teacher's answer.

    Args:
        dataset: the pictures to be labeled; their own labels are not looked at.
        share: above 0, up to 1 (every pixel is kept).
        pixel_stride: look at every so-manieth pixel across and down; it saves memory, four bytes a pixel.

    Returns:
        C thresholds; 1 for a class that the teacher sees nowhere.

    Raises:
        ValueError: a share outside of (0, 1], a stride below 1, or as in PseudoLabels.

    Source: Zou et al. 2018 (arXiv 1810.07911), class-balanced self-training.
    """
    check_share(share)
    check_whole("pixel_stride", pixel_stride)
    seen: list[list[NDArray[np.float32]]] = [[] for _ in dataset.classes]
    every = np.s_[::pixel_stride, ::pixel_stride]
    for classes, confidences in _answers(dataset, teacher):
        for class_id in np.unique(classes[every]):
            seen[class_id].append(confidences[every][classes[every] == class_id])
    thresholds = []
    for parts in seen:
        values = np.concatenate(parts) if parts else np.ones(1, np.float32)
        place = math.ceil(share * len(values))  # the place-th largest is the last that is kept
        thresholds.append(float(np.partition(values, len(values) - place)[len(values) - place]))
    return thresholds


class Joined(SegmentationDataset):
    """Several sets of the same classes as one, the first one after the other; a set may be named more than once.

    Raises:
        ValueError: no sets, or sets of different classes.
    """

    def __init__(self, parts: Sequence[SegmentationDataset], *, transform: Transform | None = None) -> None:
        names = [tuple(part.classes) for part in parts]
        if len(set(names)) != 1:
            texts = " and ".join(f"({', '.join(each)})" for each in dict.fromkeys(names)) or "no sets at all"
            raise ValueError(f"the sets have the classes {texts}: allowed are the same classes in the same order")
        self.parts, self.transform = list(parts), transform
        self.classes, self.palette = parts[0].classes, parts[0].palette
        self.ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self.ends[-1]

    def _place(self, index: int) -> tuple[SegmentationDataset, int]:
        index = range(len(self))[index]
        number = bisect.bisect_right(self.ends, index)
        return self.parts[number], index - (self.ends[number - 1] if number else 0)

    def name(self, index: int) -> str:
        part, place = self._place(index)
        return part.name(place)

    def read(self, index: int) -> tuple[NDArray[Any], ...]:
        """Return image and label; maps of instances, which pseudo labels do not have, are left out."""
        part, place = self._place(index)
        return part.read(place)[:2]


def check_share(share: float) -> None:
    """Refuse a share of the surest pixels that is not above 0 and at most 1."""
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: allowed are numbers above 0 and at most 1, such as 0.5")


def thresholds_by_class(thresholds: Thresholds, classes: Sequence[str]) -> NDArray[np.float32]:
    """Return one threshold for each class; refuse another number of them, and what is not from 0 to 1."""
    values = np.atleast_1d(np.array(thresholds, dtype=np.float32))
    if values.size == 1:
        values = np.repeat(values, len(classes))
    if values.shape != (len(classes),) or not ((values >= 0) & (values <= 1)).all():  # also refuses nan
        raise ValueError(
            f"thresholds={thresholds}: allowed are a number from 0 to 1, or {len(classes)} of them, one for each class "
            f"({', '.join(classes)})"
        )
    return values


@torch.inference_mode()
def _answers(
    dataset: SegmentationDataset, teacher: nn.Module
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """For each picture the teacher's class ids and their probabilities, [H, W] each."""
    if not len(dataset):
        raise ValueError("there are no unlabeled pictures: give a set with one or more")
    device = next((parameter.device for parameter in teacher.parameters()), torch.device("cpu"))
    with evaluating(teacher):
        for index in tqdm(range(len(dataset)), "the teacher's labels", disable=not sys.stderr.isatty()):
            image = dataset.read(index)[0]
            logits = teacher(normalize(image)[None].to(device)).float()  # [1, C, H, W]
            if logits.shape[1:] != (len(dataset.classes), *image.shape[:2]):
                raise ValueError(
                    f"for {dataset.name(index)} the teacher's logits are {list(logits.shape)}: allowed is "
                    f"[1, {len(dataset.classes)}, {image.shape[0]}, {image.shape[1]}], one for each class "
                    f"({', '.join(dataset.classes)}) and pixel; take a teacher that was trained on these classes"
                )
            if not bool(logits.isfinite().all()):
                raise ValueError(
                    f"the teacher's logits for {dataset.name(index)} are not finite: it was trained with too large a "
                    "learning rate, or its file is damaged; take another checkpoint"
                )
            confidences, classes = logits.softmax(dim=1)[0].max(dim=0)  # [H, W] each
            yield classes.cpu().numpy(), confidences.cpu().numpy()
