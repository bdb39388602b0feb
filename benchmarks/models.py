"""Compare the speed of our DeepLab v3 and v3+ with their peers': `python -m benchmarks.models [--device cuda]`.

torchvision's deeplabv3_resnet50 and segmentation_models_pytorch's DeepLabV3Plus run beside ours in one process: same
trunk, size, batch and output stride, in turns, ours first in every second one. It prints the median of the paired
ratios (ours / theirs, below 1 is faster) with their range, and writes book/results/models_DEVICE.json.

`--minis` measures the small models instead, alone: pictures a second of a training step.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp  # type: ignore[import-untyped]
import torch
import torchvision
import tyro
from torch import Tensor, nn

from benchmarks.results import ROOT, write_result
from deeplab_lesson import create_model, list_models
from deeplab_lesson.cost import count_multiply_adds
from deeplab_lesson.losses import cross_entropy

CLASSES = 21
MINI_SIZE, MINI_BATCH, MINI_STRIDES = 128, 16, (16, 8)

Work = Callable[[], None]


def main(
    size: int = 257,
    batch: int = 2,
    repeats: int = 5,
    device: str = "cpu",
    minis: bool = False,
    results: Path = ROOT / "book" / "results",
) -> None:
    """Measure, print, write. `size` and `batch` are those of the comparison with the peers."""
    started, before = time.perf_counter(), load_average()
    print(f"{device}, {torch.get_num_threads()} threads, load average {before}", flush=True)
    torch.manual_seed(0)
    if minis:
        rows = list(measure_minis(repeats, device))
        settings: dict[str, Any] = {"size": MINI_SIZE, "batch": MINI_BATCH}
        command, name = "python -m benchmarks.models --minis", "models_minis"
    else:
        rows = list(compare(size, batch, repeats, device))
        versions = {module.__name__: module.__version__ for module in (torchvision, smp)}
        settings = {"batch": batch, "peers": versions}
        command, name = f"python -m benchmarks.models --size {size} --batch {batch}", "models"
    after = load_average()
    print(f"load average at the end {after}")
    settings |= {"repeats": repeats, "load_average": {"before": before, "after": after}, "rows": rows}
    path = results / f"{name}_{torch.device(device).type}.json"
    write_result(path, f"{command} --repeats {repeats} --device {device}", time.perf_counter() - started, settings)


# ours and theirs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two models of one architecture, and the side of the square images that they are measured on."""

    ours: nn.Module
    theirs: nn.Module
    names: tuple[str, str]
    output_stride: int
    size: int


def torchvision_pair(size: int) -> Pair:
    """DeepLab v3, ours built as theirs is; without the auxiliary head."""
    ours = create_model("deeplabv3_resnet50", CLASSES, output_stride=8, multi_grid=None, head_conv=True)
    theirs = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, aux_loss=None, num_classes=CLASSES
    )
    return Pair(ours, TensorOnly(theirs), ("deeplabv3_resnet50", "torchvision deeplabv3_resnet50"), 8, size)


def segmentation_models_pair(size: int) -> Pair:
    """DeepLab v3+ with separable convolutions and the paper's rates; theirs takes multiples of 16 only.

    Theirs refines once before the decoder's enlargement and once behind it, ours twice behind it, as in the paper:
    the multiply-adds tell how much that is.
    """
    ours = create_model("deeplabv3plus_resnet50", CLASSES, output_stride=16, separable=True)
    theirs = smp.DeepLabV3Plus(
        "resnet50", encoder_weights=None, encoder_output_stride=16, decoder_atrous_rates=(6, 12, 18), classes=CLASSES
    )
    names = ("deeplabv3plus_resnet50, separable", "segmentation_models_pytorch DeepLabV3Plus resnet50")
    return Pair(ours, theirs, names, 16, size // 16 * 16)


class TensorOnly(nn.Module):
    """The "out" of a model that gives a dict."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.model(images)["out"]
        return out


def compare(size: int, batch: int, repeats: int, device: str) -> Iterator[dict[str, Any]]:
    """Measure every pair in both tasks."""
    for build in (torchvision_pair, segmentation_models_pair):
        pair = build(size)
        sides = []
        for name, model in zip(pair.names, (pair.ours, pair.theirs), strict=True):
            sides.append({"name": name, **costs(model, pair.size)})
            print(f"\n{name}: {describe(sides[-1])}, at {pair.size}x{pair.size}", end="")
            model.to(device)
        print(f"\n{'':<15}{'ours s':>9}{'theirs s':>9}{'ratio':>8}{'from':>7}{'to':>7}", flush=True)
        images = torch.randn(batch, 3, pair.size, pair.size, device=device)
        labels = torch.randint(CLASSES, (batch, pair.size, pair.size), device=device)
        for task, work in (("forward", forward), ("training step", training_step)):
            times = in_turns(work(pair.ours, images, labels), work(pair.theirs, images, labels), repeats, device)
            ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
            ratios = [first / second for first, second in times]
            middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
            print(f"{task:<15}{ours:>9.3f}{theirs:>9.3f}{middle:>8.3f}{low:>7.3f}{high:>7.3f}", flush=True)
            yield {
                "task": task, "ours": sides[0], "theirs": sides[1], "size": pair.size,
                "output_stride": pair.output_stride, "seconds_ours": ours, "seconds_theirs": theirs,
                "ratio": middle, "ratio_lowest": low, "ratio_highest": high,
            }  # fmt: skip


def costs(model: nn.Module, size: int) -> dict[str, int]:
    """Parameters, and multiply-adds for one image."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "multiply_adds": count_multiply_adds(model, (size, size))}


def describe(row: dict[str, Any]) -> str:
    """`costs` in words."""
    return f"{row['parameters'] / 1e6:.2f} M parameters, {row['multiply_adds'] / 1e9:.2f} G multiply-adds"


# the small models -----------------------------------------------------------------------------------------------


def measure_minis(repeats: int, device: str) -> Iterator[dict[str, Any]]:
    """Training steps, in the trainer's memory order, of every small model at every output stride that it can have."""
    images = torch.randn(MINI_BATCH, 3, MINI_SIZE, MINI_SIZE, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (MINI_BATCH, MINI_SIZE, MINI_SIZE), device=device)
    print(f"{'pictures a second':<25}{'stride':>7}{'median':>8}{'from':>7}{'to':>7}", flush=True)
    for name, output_stride in minis_and_strides():
        model = create_model(name, CLASSES, output_stride=output_stride)
        row = {"name": name, "output_stride": output_stride, **costs(model, MINI_SIZE)}
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        step = training_step(model, images, labels)
        speeds = [MINI_BATCH / seconds(step, device) for _ in range(repeats + 1)][1:]
        middle, low, high = statistics.median(speeds), min(speeds), max(speeds)
        print(
            f"{name:<25}{output_stride or 'own':>7}{middle:>8.1f}{low:>7.1f}{high:>7.1f}  {describe(row)}", flush=True
        )
        yield {**row, "pictures_per_second": middle, "slowest": low, "fastest": high}


def minis_and_strides() -> Iterator[tuple[str, int | None]]:
    """Names with 16 and 8; a model that has one stride only, such as U-Net, stands once with None."""
    for name in list_models("*_mini"):
        try:
            for stride in MINI_STRIDES:
                create_model(name, CLASSES, output_stride=stride)
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
            yield name, None
        else:
            yield from ((name, stride) for stride in MINI_STRIDES)


# work and time --------------------------------------------------------------------------------------------------


def forward(model: nn.Module, images: Tensor, labels: Tensor) -> Work:
    """Inference, without a graph for gradients."""

    def run() -> None:
        model.eval()
        with torch.no_grad():
            model(images)

    return run


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Work:
    """Forward, cross entropy, backward; no optimizer."""

    def run() -> None:
        model.train().zero_grad(set_to_none=True)
        cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]

    return run


def in_turns(ours: Work, theirs: Work, repeats: int, device: str) -> list[tuple[float, float]]:
    """Seconds of both in every turn, after one that does not count; the order alternates."""
    times = []
    for turn in range(repeats + 1):
        if turn % 2:
            first, second = seconds(ours, device), seconds(theirs, device)
        else:
            second, first = seconds(theirs, device), seconds(ours, device)
        times.append((first, second))
    return times[1:]


def seconds(work: Work, device: str) -> float:
    """The time of one call, with all that it started on a GPU."""
    wait: Work = torch.cuda.synchronize if torch.device(device).type == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def load_average() -> list[float]:
    """Of the last 1, 5 and 15 minutes; empty where the system tells none."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else []


if __name__ == "__main__":
    tyro.cli(main)
