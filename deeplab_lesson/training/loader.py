"""The order of the training pictures and their random views: pure functions of seed, step and picture."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from deeplab_lesson.data.datasets import SegmentationDataset
from deeplab_lesson.data.transforms import TrainTransform
from deeplab_lesson.training.config import TrainConfig

View = tuple[int, int]  # (epoch, index of the picture)


def seeded_generator(*numbers: int) -> torch.Generator:
    """Return a random generator that depends on the numbers and on nothing else."""
    mixed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> 1))


class BatchStream(Sampler[list[View]]):
    """Batches for the steps from `first_step` to `last_step`: every epoch a new order, every batch full.

    The pictures of all epochs stand in one endless row, so a batch may hold the end of one epoch and the start
    of the next. Step k's batch is the same wherever the stream starts: that is all that resuming needs.
    """

    def __init__(self, length: int, batch_size: int, seed: int, first_step: int, last_step: int) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.first_step, self.last_step = first_step, last_step

    def __len__(self) -> int:
        return self.last_step - self.first_step

    def __iter__(self) -> Iterator[list[View]]:
        order_epoch, order = -1, torch.empty(0)
        for step in range(self.first_step, self.last_step):
            batch = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                epoch, place = divmod(position, self.length)
                if epoch != order_epoch:
                    order = torch.randperm(self.length, generator=seeded_generator(self.seed, epoch))
                    order_epoch = epoch
                batch.append((epoch, int(order[place])))
            yield batch


class RandomViews(Dataset[tuple[Tensor, ...]]):
    """Pictures of a set, each under a random view that depends on seed, epoch and picture only.

    A view is an image and a label and, where the set reads instance maps, one of these.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        transform: TrainTransform,
        seed: int,
        *,
        limit: int | None = None,
        cache: bool = False,
    ) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self.length = min(len(dataset), limit or len(dataset))
        self.cache: dict[int, tuple[Any, ...]] | None = {} if cache else None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, view: View) -> tuple[Tensor, ...]:
        epoch, index = view
        image, label, *more = self._read(index)
        generator = seeded_generator(self.seed, epoch, index)
        return self.transform(image, label, generator, instances=more[0] if more else None)

    def _read(self, index: int) -> tuple[Any, ...]:
        if self.cache is None:
            return self.dataset.read(index)
        if index not in self.cache:
            self.cache[index] = self.dataset.read(index)
        return self.cache[index]


def training_batches(
    dataset: SegmentationDataset,
    transform: TrainTransform,
    config: TrainConfig,
    *,
    first_step: int,
    pin_memory: bool,
) -> DataLoader[Any]:
    """Return a loader of (images [N, 3, h, w], labels [N, h, w]), one batch for each step that is left.

    Where the set reads instance maps, they are the third part [N, h, w].
    """
    views = RandomViews(dataset, transform, config.seed, limit=config.limit, cache=config.cache)
    return DataLoader(
        views,
        batch_sampler=BatchStream(len(views), config.batch_size, config.seed, first_step, config.steps),
        num_workers=config.workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the training's generator
    )
