"""Batches come quickly and the same: one cache for all workers, channels side by side."""

import dataclasses
import multiprocessing
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from short_training import short_config, short_sets

from deeplab_lesson.data import Scenes, TrainTransform
from deeplab_lesson.training import picture_cache as cache_module
from deeplab_lesson.training.loader import RandomViews, collate, training_batches
from deeplab_lesson.training.picture_cache import SharedPictures, picture_cache

needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")


class Counted(Scenes):
    """Counts over all processes how often each picture was read."""

    def __init__(self, length: int) -> None:
        super().__init__("train", (64, 64), length=length)
        self.reads = torch.zeros(length, dtype=torch.int64).share_memory_()

    def read(self, index: int):
        self.reads[index] += 1
        return super().read(index)


def some_parts(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (size, size + 1, 3), dtype=np.uint8), draw.integers(
        0, 9, (size, size + 1), dtype=np.uint8
    )


@needs_fork
def test_two_workers_read_each_picture_about_once_and_give_the_same_batches(tmp_path):
    """Both may read one picture at the same time; without sharing it would be twice for every picture."""
    config = short_config(tmp_path, steps=30, batch_size=3, cache=True, workers=2)
    counted = Counted(6)
    found = list(training_batches(counted, config, torch.device("cpu"), first_step=0))
    assert counted.reads.sum() <= 6 + 1 + 3, counted.reads  # once each, the first for its size, and a few at once
    plain = dataclasses.replace(config, cache=False, workers=0)
    for batch, expected in zip(
        found, training_batches(Counted(6), plain, torch.device("cpu"), first_step=0), strict=True
    ):
        assert all(torch.equal(one, other) for one, other in zip(batch, expected, strict=True))


def test_cache_of_one_process_reads_each_picture_once(tmp_path):
    config = short_config(tmp_path, steps=10, batch_size=3, cache=True)
    counted = Counted(6)
    list(training_batches(counted, config, torch.device("cpu"), first_step=0))
    assert counted.reads.tolist() == [1] * 6


@needs_fork
def test_pictures_of_all_sizes_and_types_come_back_from_another_process():
    shared = SharedPictures(4, room=10**6)
    parts = {1: some_parts(30), 3: (*some_parts(40, 1), np.full((40, 41), -7, dtype=np.int32))}

    def fill() -> None:
        for index, arrays in parts.items():
            shared[index] = arrays

    child = multiprocessing.get_context("fork").Process(target=fill)
    child.start()
    child.join()
    assert shared.get(0) is None
    for index, arrays in parts.items():
        for got, want in zip(shared.get(index), arrays, strict=True):
            np.testing.assert_array_equal(got, want)
            assert got.dtype == want.dtype
    shared.get(1)[0][...] = 0
    np.testing.assert_array_equal(shared.get(1)[0], parts[1][0], err_msg="a copy: nobody can spoil it for the others")


@needs_fork
def test_picture_without_room_is_not_kept_and_harms_no_other():
    size = len(cache_module.pickle.dumps(some_parts(30), protocol=5))
    shared = SharedPictures(3, room=2 * size + 10)
    for index in range(3):
        shared[index] = some_parts(30, index)
    assert shared.get(2) is None
    for index in range(2):
        np.testing.assert_array_equal(shared.get(index)[0], some_parts(30, index)[0])


@needs_fork
def test_room_is_for_all_pictures_but_never_more_than_half_of_the_memory(monkeypatch):
    scenes = Scenes("train", (64, 64), length=10)
    bytes_of_one = 64 * 64 * 4
    assert 10 * bytes_of_one < len(picture_cache(scenes, 10, workers=1)._memory) < 20 * bytes_of_one
    monkeypatch.setattr(cache_module, "memory_of", lambda device: Few)
    assert len(picture_cache(scenes, 10, workers=1)._memory) == 3 * bytes_of_one


class Few:
    total = 2 * 3 * 64 * 64 * 4


@pytest.mark.parametrize(("workers", "forked"), [(0, True), (2, False)])
def test_without_workers_or_where_they_share_no_memory_it_is_a_dict(monkeypatch, workers, forked):
    monkeypatch.setattr(cache_module, "workers_are_forked", lambda: forked)
    assert picture_cache(Scenes("train", length=2), 2, workers) == {}


def test_start_method_that_was_chosen_counts(monkeypatch):
    for chosen, expected in (("spawn", False), ("forkserver", False), ("fork", True)):
        monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none, chosen=chosen: chosen)
        assert cache_module.workers_are_forked() is expected


@pytest.mark.parametrize("as_bytes", [True, False])
def test_batches_keep_the_channels_of_a_pixel_side_by_side(as_bytes):
    views = RandomViews(short_sets()["train_set"], TrainTransform((48, 40), as_bytes=as_bytes), seed=0)
    some = [views[0, index] for index in range(3)]
    images, labels = collate(some)
    assert images.shape == (3, 3, 48, 40)
    assert images.is_contiguous(memory_format=torch.channels_last)
    for number, (image, label) in enumerate(some):
        assert torch.equal(images[number], image)
        assert torch.equal(labels[number], label)


def test_instance_maps_are_stacked_too():
    scenes = Scenes("train", (64, 64), length=2, instances=True)
    views: Iterator = (RandomViews(scenes, TrainTransform((48, 48)), seed=0)[0, index] for index in range(2))
    images, labels, instances = collate(list(views))
    assert (images.shape, labels.shape, instances.shape) == ((2, 3, 48, 48), (2, 48, 48), (2, 48, 48))
