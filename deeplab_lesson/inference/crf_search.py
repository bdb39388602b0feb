"""The search of the CRF's parameters for one model, on pictures of a labeled set."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from deeplab_lesson.crf.tuning import GRID, Picture, Search, tune
from deeplab_lesson.data.datasets import SegmentationDataset
from deeplab_lesson.data.palette import VOID
from deeplab_lesson.data.transforms import normalize
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training.answers import ONE_LOOK, average_probabilities
from deeplab_lesson.training.crf_step import as_logits
from deeplab_lesson.training.evaluation import as_tensors, check_same_classes, evaluating

MOST_PICTURES = 100  # v1 and v2 search on 100 pictures of the validation set


@torch.inference_mode()
def tune_crf(
    model: SegmentationModel,
    dataset: SegmentationDataset,
    *,
    count: int = MOST_PICTURES,
    scales: Sequence[float] = ONE_LOOK,
    flip: bool = False,
    grid: Mapping[str, Sequence[float]] = GRID,
    rounds: int = 2,
    progress: bool = False,
    **fixed: Any,
) -> Search:
    """Find the CRF parameters that give a model the highest mean IoU on a set.

    The model sees each picture once; its answers are kept in memory (4 bytes a class and pixel). The score of the
    winner is optimistic, since it was chosen for it: measure on pictures that were not searched on.

    Args:
        dataset: a validation split.
        count: at most so many pictures, evenly spread over the set.
        scales, flip: as in `average_probabilities`; the same as in the later use.
        grid, rounds, progress, fixed: as in `deeplab_lesson.crf.tune`.

    Raises:
        TypeError, ValueError: as in `average_probabilities` and `tune`; no pictures; another number of classes; a
            picture that the model refuses (named); a set in which every pixel is void.
    """
    if type(count) is not int or count < 1:
        raise ValueError(f"count={count!r}: allowed are whole numbers of pictures from 1")
    check_same_classes(model, dataset)
    device = next(model.parameters()).device
    number = min(count, len(dataset))
    pictures: list[Picture] = []
    with evaluating(model):
        for index in (place * len(dataset) // number for place in range(number)):
            image, label = (tensor.to(device) for tensor in as_tensors(*dataset.read(index)[:2]))
            try:
                probabilities = average_probabilities(model, normalize(image)[None], scales, flip)[0]
            except ValueError as error:
                raise ValueError(f"picture {dataset.name(index)}: {error}") from error
            pictures.append((as_logits(probabilities), image, label))
    if all(bool((label == VOID).all()) for _, _, label in pictures):
        raise ValueError(f"every pixel of the {number} pictures is void: nothing can be scored; check the labels")
    return tune(pictures, grid=grid, rounds=rounds, progress=progress, **fixed)
