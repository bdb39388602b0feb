"""The order of the training pictures and their random views: pure functions of seed, step and picture.

Where several processes train together, each loads its part of the same batches.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from deeplab_lesson.data.datasets import SegmentationDataset
from deeplab_lesson.data.transforms import TrainTransform
from deeplab_lesson.losses import median_frequency_weights
from deeplab_lesson.training.config import TrainConfig
from deeplab_lesson.training.picture_cache import picture_cache

View = tuple[int, int]  # (epoch, index of the picture)
PREFETCH = 4  # batches that each worker keeps ready; torch's 2 leave a gap where one picture takes long


def seeded_generator(*numbers: int) -> torch.Generator:
    """Return a random generator that depends on the numbers and on nothing else."""
    mixed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> 1))


class BatchStream(Sampler[list[View]]):
    """Batches for the steps from `first_step` to `last_step`: every epoch a new order, every batch full.

    The pictures of all epochs stand in one endless row, so a batch may hold the end of one epoch and the start
    of the next. Step k's batch is the same wherever the stream starts: that is all that resuming needs.

    Args:
        share: (part, parts): yield only this part of each batch, which is split evenly.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        first_step: int,
        last_step: int,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.first_step, self.last_step = first_step, last_step
        part, parts = share
        self.share = slice(batch_size * part // parts, batch_size * (part + 1) // parts)

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
            yield batch[self.share]


class RandomViews(Dataset[tuple[Tensor, ...]]):
    """Pictures of a set, each under a random view that depends on seed, epoch and picture only.

    A view is an image and a label and, where the set reads instance maps, one of these.

    Args:
        limit: only the first so many pictures.
        cache: keep them in memory as they were read; shared by `workers` processes, see `picture_cache`.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        transform: TrainTransform,
        seed: int,
        *,
        limit: int | None = None,
        cache: bool = False,
        workers: int = 0,
    ) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self.length = min(len(dataset), limit or len(dataset))
        self.cache = picture_cache(dataset, self.length, workers) if cache else None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, view: View) -> tuple[Tensor, ...]:
        epoch, index = view
        image, label, *more = self._read(index)
        generator = seeded_generator(self.seed, epoch, index)
        return self.transform(image, label, generator, instances=more[0] if more else None)

    def _read(self, index: int) -> tuple[Any, ...]:
        kept = None if self.cache is None else self.cache.get(index)
        if kept is not None:
            return kept
        parts = self.dataset.read(index)
        if self.cache is not None:
            self.cache[index] = parts
        return parts


def collate(views: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """Stack views to a batch whose images keep a pixel's channels side by side, as pictures have them.

    So stacking is plain copying, and nothing has to be turned for convolutions that like this order (channels_last).
    """
    images, *maps = default_collate([(image.permute(1, 2, 0), *maps) for image, *maps in views])
    return [images.permute(0, 3, 1, 2), *maps]


def training_batches(
    dataset: SegmentationDataset,
    config: TrainConfig,
    device: torch.device,
    *,
    first_step: int,
    share: tuple[int, int] = (0, 1),
) -> DataLoader[Any]:
    """Return a loader of (images [N, 3, h, w], labels [N, h, w]), one batch for each step that is left.

    Both are uint8 with config.uint8_upload, else float32 and int64. The workers live as long as the loader.

    Where the set reads instance maps, they are the third part [N, h, w].

    Args:
        device: what they will be sent to; for a GPU they wait in memory that it can read by itself.
        share: (part, parts): of each batch only this part, as in `BatchStream`.
    """
    transform = TrainTransform(
        config.crop, config.scale, config.flip, config.color_jitter, as_bytes=config.uint8_upload
    )
    views = RandomViews(dataset, transform, config.seed, limit=config.limit, cache=config.cache, workers=config.workers)
    return DataLoader(
        views,
        batch_sampler=BatchStream(len(views), config.batch_size, config.seed, first_step, config.steps, share),
        collate_fn=collate,
        num_workers=config.workers,
        prefetch_factor=PREFETCH if config.workers else None,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the training's generator
    )


class Shard(SegmentationDataset):
    """One of the parts of a set: neighbors stay together, no picture is in two parts, none is left out."""

    def __init__(self, dataset: SegmentationDataset, part: int, parts: int) -> None:
        self.dataset, self.classes, self.palette = dataset, dataset.classes, dataset.palette
        self.indices = range(len(dataset) * part // parts, len(dataset) * (part + 1) // parts)

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.dataset.name(self.indices[index])

    def read(self, index: int) -> tuple[Any, ...]:
        return self.dataset.read(self.indices[index])


def check_shares(
    config: TrainConfig, processes: int, train_set: SegmentationDataset, val_set: SegmentationDataset
) -> None:
    """Refuse a batch that cannot be split evenly, and more processes than there are pictures.

    Raises:
        ValueError: says which numbers are possible.
    """
    parts = processes * config.accumulate
    if config.batch_size % parts:
        below = config.batch_size // parts * parts
        raise ValueError(
            f"batch_size={config.batch_size} is the batch of all processes together, and cannot be split evenly into "
            f"{processes} (processes) x {config.accumulate} (accumulate) parts: take "
            + (f"{below} or {below + parts}" if below else f"{parts} or a multiple of it")
        )
    training = min(len(train_set), config.limit or len(train_set))
    check_pictures(processes, training=training, validation=len(val_set))


def check_pictures(processes: int, **pictures: int) -> None:
    """Refuse more processes than pictures; `pictures` are their numbers by the name of their set."""
    for name, count in pictures.items():
        if count < processes and processes > 1:
            raise ValueError(
                f"{processes} processes and {count} {name} pictures: each process needs at least one; start at most "
                f"{count} processes (--nproc_per_node)"
            )


def class_weights(config: TrainConfig, dataset: SegmentationDataset) -> Tensor | None:
    """Return the weights [C] that the settings ask for, from the labels of the pictures that are trained on."""
    if config.class_weights == "none":
        return None
    count = min(len(dataset), config.limit or len(dataset))
    return median_frequency_weights((dataset.read(index)[1] for index in range(count)), len(dataset.classes))
