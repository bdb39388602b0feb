"""Measure how many pictures a second the loader makes: `python -m benchmarks.loader [--workers 0 1 2 4]`.

Photographs of VOC's size (noisy scenes, 500x375, JPEG and palette PNG, made on the fly) go through our loader, from the
files and from its cache, and, in turns with it, through the transforms of torchvision's references/segmentation on the
same files: same crop, zooms, batch and number of workers. It prints pictures a second and the ratio of the paired
turns, then the same for scenes, which are drawn and have no peer, and writes book/results/loader.json.
"""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
import tyro
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from benchmarks.results import ROOT, write_result
from benchmarks.train_step import load_average
from deeplab_lesson.data import Scenes, SegmentationDataset, VOCFolder
from deeplab_lesson.data.files import write_label, write_picture
from deeplab_lesson.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from deeplab_lesson.training import TrainConfig
from deeplab_lesson.training.loader import PREFETCH, training_batches

SIZE = (375, 500)  # height and width of most pictures of VOC 2012
CROP, BASE_SIZE = 480, 520  # of torchvision's recipe


def main(
    workers: tuple[int, ...] = (0, 1, 2),
    pictures: int = 64,
    batches: int = 10,
    batch: int = 8,
    turns: int = 3,
    results: Path = ROOT / "book" / "results",
) -> None:
    """Measure, print, write.

    Args:
        workers: processes that prepare pictures; 0 is the process that trains.
        pictures: files that are made.
        batches: of a turn.
        batch: pictures of a batch.
        turns: that count, after one that does not.
    """
    started, before = time.perf_counter(), load_average()
    print(f"{os.cpu_count()} cores, load average {before}, crop {CROP}, batch {batch}")
    print(f"{'':<16}{'workers':>8}{'ours':>9}{'theirs':>9}{'ratio':>7}{'from':>7}{'to':>7}", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = make_files(Path(folder), pictures)
        for count in workers:
            theirs = Endless(reference_loader(root, batch, count), batches, batch)
            for name, dataset, cache in (
                ("VOC files", VOCFolder(root), False),
                ("VOC, cached", VOCFolder(root), True),
                ("scenes 480x480", Scenes("train", (CROP, CROP), length=pictures), False),
            ):
                ours = Endless(our_loader(dataset, batch, count, cache), batches, batch)
                ours.turn()  # the first fills the cache
                peer = None if isinstance(dataset, Scenes) else theirs
                rows.append(compare(name, count, ours, peer, turns))
    settings = {
        "pictures": pictures, "batches_a_turn": batches, "batch": batch, "turns": turns, "crop": CROP, "size": SIZE,
        "cores": os.cpu_count(), "peer": torchvision.__version__,
        "load_average": {"before": before, "after": load_average()}, "rows": rows,
    }  # fmt: skip
    command = (
        f"python -m benchmarks.loader --workers {' '.join(map(str, workers))} --pictures {pictures} "
        f"--batches {batches} --batch {batch} --turns {turns}"
    )
    write_result(results / "loader.json", command, time.perf_counter() - started, settings)


def compare(name: str, workers: int, ours: "Endless", theirs: "Endless | None", turns: int) -> dict[str, Any]:
    """Pictures a second of both, in turns; the order alternates."""
    times = []
    for number in range(turns + 1):
        if theirs is None:
            times.append((ours.turn(), 1.0))
        elif number % 2:
            one = ours.turn()
            times.append((one, theirs.turn()))
        else:
            other = theirs.turn()
            times.append((ours.turn(), other))
    times = times[1:]
    row: dict[str, Any] = {"data": name, "workers": workers, "ours": statistics.median(one for one, _ in times)}
    text = f"{name:<16}{workers:>8}{row['ours']:>9.1f}"
    if theirs is not None:
        ratios = [one / other for one, other in times]
        row |= {
            "theirs": statistics.median(other for _, other in times), "ratio": statistics.median(ratios),
            "ratio_lowest": min(ratios), "ratio_highest": max(ratios),
        }  # fmt: skip
        text += f"{row['theirs']:>9.1f}{row['ratio']:>7.2f}{min(ratios):>7.2f}{max(ratios):>7.2f}"
    print(text, flush=True)
    return row


class Endless:
    """A loader that is read in turns of `batches`; its workers stay."""

    def __init__(self, loader: DataLoader[Any], batches: int, batch: int) -> None:
        self.stream, self.batches, self.batch = iter(loader), batches, batch

    def turn(self) -> float:
        """Read as many batches as were prepared ahead, then measure: pictures a second."""
        ready = getattr(self.stream, "_num_workers", 0) * PREFETCH  # what was made while the other side had its turn
        for _ in range(ready):
            next(self.stream)
        start = time.perf_counter()
        for _ in range(self.batches):
            next(self.stream)
        return self.batches * self.batch / (time.perf_counter() - start)


def our_loader(dataset: SegmentationDataset, batch: int, workers: int, cache: bool) -> DataLoader[Any]:
    """The trainer's own, as a training with these settings has it."""
    config = TrainConfig(
        steps=10**6, batch_size=batch, crop=(CROP, CROP), scale=(0.5 * BASE_SIZE / SIZE[0], 2.0 * BASE_SIZE / SIZE[0]),
        workers=workers, cache=cache,
    )  # fmt: skip
    return training_batches(dataset, config, torch.device("cpu"), first_step=0)


def make_files(root: Path, count: int) -> Path:
    """Write scenes with a camera's noise, so that a JPEG is as large as a photograph's."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    scenes, draw = Scenes("train", SIZE, length=count), np.random.default_rng(0)
    for index in range(count):
        image, label = scenes.read(index)
        noisy = (image + draw.normal(0, 12, image.shape)).clip(0, 255).astype(np.uint8)
        write_picture(root / "JPEGImages" / f"{index:04}.jpg", Image.fromarray(noisy))
        write_label(root / "SegmentationClass" / f"{index:04}.png", label, scenes.palette)
    names = "".join(f"{index:04}\n" for index in range(count))
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text(names)
    return root


# torchvision's reference, in our words ------------------------------------------------------------------------------


class ReferenceTransform:
    """Resize the whole picture to a short side of 260 to 1040, flip, pad and crop, to float32, normalize; by Pillow."""

    def __init__(self) -> None:
        self.tensor = v2.Compose([
            v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ])  # fmt: skip

    def __call__(self, image: Image.Image, label: Image.Image) -> tuple[Tensor, Tensor]:
        side = random.randint(BASE_SIZE // 2, 2 * BASE_SIZE)
        image = F.resize(image, [side], interpolation=v2.InterpolationMode.BILINEAR)
        label = F.resize(label, [side], interpolation=v2.InterpolationMode.NEAREST)
        if random.random() < 0.5:
            image, label = F.horizontal_flip(image), F.horizontal_flip(label)
        right, below = (max(0, CROP - length) for length in image.size)
        if right or below:
            image, label = F.pad(image, [0, 0, right, below]), F.pad(label, [0, 0, right, below], fill=255)
        top, left = (random.randint(0, length - CROP) for length in (image.height, image.width))
        image, label = (F.crop(part, top, left, CROP, CROP) for part in (image, label))
        return self.tensor(image), torch.from_numpy(np.array(label).astype(np.int64))


class ReferenceFiles(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of files as torchvision's VOCSegmentation opens them."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        self.pairs, self.transform = pairs, ReferenceTransform()

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture, label = self.pairs[index % len(self.pairs)]
        return self.transform(Image.open(picture).convert("RGB"), Image.open(label))


def reference_loader(root: Path, batch: int, workers: int) -> DataLoader[Any]:
    """torchvision's: no pinned memory, torch's own prefetching."""
    return DataLoader(ReferenceFiles(VOCFolder(root).pairs), batch, num_workers=workers, drop_last=True)


if __name__ == "__main__":
    tyro.cli(main)
