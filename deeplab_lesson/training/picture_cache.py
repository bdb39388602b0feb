"""Decoded pictures kept in memory, once for all workers of a loader."""

import multiprocessing
import pickle
from mmap import mmap
from typing import Any

import numpy as np
import torch

from deeplab_lesson.data.datasets import SegmentationDataset
from deeplab_lesson.training.memory import memory_of

SLACK = 1.5  # room for pictures larger than the first one


class SharedPictures:
    """Pictures by index, in memory that processes forked later read and fill together.

    The memory has no name and no file: it goes with the last process that has it, however that ends. It is taken page
    by page as it is filled; a picture for which there is no room left is just not kept.

    Args:
        count: of pictures.
        room: bytes for all of them.
    """

    def __init__(self, count: int, room: int) -> None:
        fork = multiprocessing.get_context("fork")
        self._lock, self._used = fork.Lock(), fork.Value("q", 0, lock=False)
        self._memory = mmap(-1, max(1, room))
        self._places = np.frombuffer(mmap(-1, 16 * count), dtype=np.int64).reshape(count, 2)  # start, length; 0 is none

    def get(self, index: int) -> tuple[Any, ...] | None:
        """Return a copy of what was put there, by whichever process."""
        with self._lock:
            start, length = self._places[index].tolist()
        parts: tuple[Any, ...] | None = pickle.loads(self._memory[start : start + length]) if length else None
        return parts

    def __setitem__(self, index: int, parts: tuple[Any, ...]) -> None:
        content = pickle.dumps(parts, protocol=5)
        with self._lock:
            start = self._used.value
            if start + len(content) <= len(self._memory) and not self._places[index, 1]:
                self._memory[start : start + len(content)] = content
                self._used.value = start + len(content)
                self._places[index] = start, len(content)


def picture_cache(
    dataset: SegmentationDataset, count: int, workers: int
) -> "SharedPictures | dict[int, tuple[Any, ...]]":
    """Return what a loader keeps its pictures in: shared by its workers where these are forked (Linux).

    Elsewhere each worker fills a dict of its own. Shared, it takes half of the machine's memory at most. How much room
    the first `count` pictures will want is told by the first one.
    """
    if not workers or not workers_are_forked():
        return {}
    wanted = round(SLACK * count * len(pickle.dumps(dataset.read(0), protocol=5)))
    return SharedPictures(count, min(wanted, memory_of(torch.device("cpu")).total // 2))


def workers_are_forked() -> bool:
    """True where new processes begin as copies of this one and see its memory."""
    chosen = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return chosen == "fork"
