"""Measure what each switch of a training step brings: `python -m benchmarks.train_step [--preset gpu]`.

A ladder: every rung is the one before with one more switch of TrainConfig, measured in turns with torchvision's
reference recipe in the same process. It prints images a second, their ratio to the reference's of the same turns
(median, lowest, highest), the peak of the memory, the share of the speed at which this device multiplies large matrices
(bfloat16 on a GPU, float32 on a CPU; measured here too), and the seconds until the first step was done. After every
rung it writes book/results/train_step.json (on a CPU train_step_cpu.json): a run that is cut short leaves what it has.
"""

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
import tyro
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results import ROOT, write_result
from deeplab_lesson import create_model
from deeplab_lesson.data.transforms import normalize
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training import TrainConfig
from deeplab_lesson.training.hardware import choose_precision
from deeplab_lesson.training.update import Update

CLASSES = 21
GIB = 2**30
Step = Callable[[], None]


@dataclass(frozen=True)
class Sizes:
    """What is measured: square crops, pictures in a batch, steps in a turn, turns."""

    size: int
    batch: int
    steps: int
    turns: int


PRESETS = {"gpu": Sizes(513, 16, 6, 5), "cpu": Sizes(65, 2, 2, 4)}


@dataclass(frozen=True)
class Rung:
    """One more change of the settings; `stride` where it is not 8."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    stride: int = 8
    gpu_only: bool = True


START = {
    "precision": "float32", "tf32": False, "autotune": False, "channels_last": False, "fused_optimizer": False,
    "uint8_upload": False, "compile": False, "auxiliary_weight": 0.5, "label_stride": 1,
}  # fmt: skip
LADDER = (
    Rung("float32, eager", gpu_only=False),
    Rung("+ TF32", {"tf32": True}),
    Rung("+ autotuned convolutions", {"autotune": True}),
    Rung("+ channels-last", {"channels_last": True}, gpu_only=False),
    Rung("+ 16 bits (autocast)", {"precision": "auto"}),
    Rung("+ fused optimizer", {"fused_optimizer": True}),
    Rung("+ pictures sent as bytes", {"uint8_upload": True}, gpu_only=False),
    Rung("+ compiled with the loss", {"compile": True}),
    Rung("all of it, output stride 16", stride=16, gpu_only=False),
)


def main(
    preset: Literal["auto", "cpu", "gpu"] = "auto",
    size: int | None = None,
    batch: int | None = None,
    steps: int | None = None,
    turns: int | None = None,
    compile: bool = False,
    results: Path = ROOT / "book" / "results",
) -> None:
    """Climb the ladder.

    Args:
        preset: auto takes gpu where there is one.
        size: of the square crops.
        batch: pictures of a step.
        steps: in a turn.
        turns: that count, after one that does not.
        compile: on a CPU too, where compiling takes minutes.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = preset if preset != "auto" else "gpu" if device.type == "cuda" else "cpu"
    given = {name: value for name, value in (("size", size), ("batch", batch), ("steps", steps), ("turns", turns))
             if value is not None}  # fmt: skip
    sizes = replace(PRESETS[chosen], **given)
    started, before = time.perf_counter(), load_average()
    torch.manual_seed(0)
    peak = matmul_peak(device)
    print(
        f"{device}, {torch.get_num_threads()} threads, load average {before}; crop {sizes.size}, batch {sizes.batch}; "
        f"large matrices at {peak / 1e12:.3g} TFLOP/s\n{'':<30}{'images/s':>9}{'ratio':>7}{'from':>7}{'to':>7}"
        f"{'GiB':>7}{'of peak':>9}{'first s':>9}",
        flush=True,
    )
    command = f"python -m benchmarks.train_step --preset {chosen}" + "".join(f" --{k} {v}" for k, v in given.items())
    command += " --compile" if compile and device.type == "cpu" else ""
    rows: list[dict[str, Any]] = []
    for row in climb(sizes, device, peak, compile):
        rows.append(row)
        show(row)
        values = {
            "model": "deeplabv3_resnet50 with auxiliary head, built as torchvision's", "size": sizes.size,
            "batch": sizes.batch, "steps_a_turn": sizes.steps, "turns": sizes.turns, "peer": torchvision.__version__,
            "matmul_peak_flops": peak, "load_average": {"before": before, "after": load_average()}, "rows": rows,
        }  # fmt: skip
        name = "train_step.json" if device.type == "cuda" else "train_step_cpu.json"
        write_result(results / name, command, time.perf_counter() - started, values)


def climb(sizes: Sizes, device: torch.device, peak: float, compile: bool) -> Iterator[dict[str, Any]]:
    """Measure the reference against every rung."""
    gpu, settings = device.type == "cuda", dict(START)
    reference, reference_seconds, reference_bytes = build(lambda: reference_step(sizes, device, amp=gpu), device)
    speeds: list[float] = []
    for rung in LADDER:
        if not gpu and rung.gpu_only and not (compile and "compile" in rung.changes):
            continue
        settings |= rung.changes
        ours, first, needed = build(lambda: our_step(sizes, device, settings, rung.stride), device)  # noqa: B023
        times = [in_turn(ours, reference, sizes.steps, device, first=number % 2) for number in range(sizes.turns + 1)]
        rates = [(sizes.batch / one, sizes.batch / other) for one, other in times[1:]]
        speeds += [theirs for _, theirs in rates]
        yield summary(rung.name, [o for o, _ in rates], [o / t for o, t in rates], sizes, rung.stride, peak) | {
            "peak_gib": needed / GIB if gpu else None, "first_step_seconds": first,
        }  # fmt: skip
        del ours
        gc.collect()
    amp = "--amp" if gpu else "without --amp"
    yield summary(f"torchvision, {amp}", speeds, [1.0], sizes, 8, peak) | {
        "peak_gib": reference_bytes / GIB if gpu else None, "first_step_seconds": reference_seconds,
    }  # fmt: skip


def our_step(sizes: Sizes, device: torch.device, settings: dict[str, Any], stride: int) -> Step:
    """Our training step, as the trainer takes it, from a batch on the host."""
    config = TrainConfig(
        model="deeplabv3_resnet50", steps=10**6, batch_size=sizes.batch, learning_rate=0.02, **settings
    )
    model = our_model(stride)
    update = Update(model, config, device, choose_precision(config.precision, device))
    images, labels = host_batch(sizes)
    batch = (images, labels) if config.uint8_upload else (normalize(images), labels.long())
    if device.type == "cuda":
        batch = (batch[0].pin_memory(), batch[1].pin_memory())
    numbers = iter(range(config.steps))
    return lambda: void(update(next(numbers), *batch))


def our_model(stride: int) -> SegmentationModel:
    """DeepLab v3 built as torchvision's: one rate in layer4, a convolution behind ASPP, an auxiliary head."""
    return create_model(
        "deeplabv3_resnet50", CLASSES, output_stride=stride, multi_grid=None, head_conv=True, aux_head=True
    )


def reference_step(sizes: Sizes, device: torch.device, *, amp: bool) -> Step:
    """A step as torchvision's references/segmentation/train.py takes it (deeplabv3_resnet50 --aux-loss [--amp]).

    In our words: float16 with a gradient scaler under --amp; a cross-entropy for each head, the auxiliary one times
    0.5; SGD over trunk, head and auxiliary head (ten times the rate), all decayed; a poly schedule by step; cuDNN's
    autotuning on; batches that wait in ordinary memory and are sent as float32; and the loss read at every step.
    """
    model = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
    ).to(device)
    groups: list[dict[str, Any]] = [{"params": list(p.parameters())} for p in (model.backbone, model.classifier)]
    groups.append({"params": list(model.aux_classifier.parameters()), "lr": 0.2})
    optimizer = torch.optim.SGD(groups, lr=0.02, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 - step / 10**6) ** 0.9)
    scaler = torch.GradScaler(device.type, enabled=amp)
    images, labels = host_batch(sizes)
    images, labels = normalize(images), labels.long()
    score = nn.CrossEntropyLoss(ignore_index=255)

    def step() -> None:
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        model.train()
        with torch.autocast(device.type, torch.float16 if amp else None, enabled=amp):
            heads = model(images.to(device))
            truth = labels.to(device)
            loss = score(heads["out"], truth) + 0.5 * score(heads["aux"], truth)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        loss.item()
        torch.backends.cudnn.benchmark = before

    return step


def host_batch(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """The same noise for all: uint8 [N, 3, H, W] and labels uint8 [N, H, W], some of them void."""
    generator = torch.Generator().manual_seed(1)
    shape = (sizes.batch, 3, sizes.size, sizes.size)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (sizes.batch, *shape[2:]), generator=generator, dtype=torch.uint8)
    labels[:, : sizes.size // 16] = 255
    return images, labels


# time, memory, work -----------------------------------------------------------------------------------------------


def build(make: Callable[[], Step], device: torch.device) -> tuple[Step, float, int]:
    """Make a step and take it once: the step, the seconds of that, and the bytes that it needed on a GPU."""
    before = 0
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    step = make()
    seconds = elapsed(step, 1, device)
    step()  # with the optimizer's memory there
    return step, seconds, (torch.cuda.max_memory_allocated() - before) if device.type == "cuda" else 0


def in_turn(ours: Step, theirs: Step, steps: int, device: torch.device, *, first: int) -> tuple[float, float]:
    """Seconds a step of both, ours first where `first`."""
    if first:
        one = elapsed(ours, steps, device)
        return one, elapsed(theirs, steps, device)
    other = elapsed(theirs, steps, device)
    return elapsed(ours, steps, device), other


def elapsed(step: Step, steps: int, device: torch.device) -> float:
    """Seconds a step, with all that it started on a GPU."""
    wait: Step = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return (time.perf_counter() - start) / steps


def void(value: object) -> None:
    """Drop a step's loss without looking at it."""


def load_average() -> list[float]:
    """Of the last 1, 5 and 15 minutes; empty where the system tells none."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else []


@lru_cache
def step_flops(stride: int, size: int) -> int:
    """Operations (two a multiply-add) of forward and backward for one picture, counted without computing."""
    with torch.device("meta"):
        model, images = our_model(stride).train(), torch.empty(2, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        heads = model.forward_heads(images)
        torch.stack([head.mean() for head in heads.values()]).sum().backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops()) // 2


def matmul_peak(device: torch.device) -> float:
    """Operations a second of the best of some products of large square matrices."""
    gpu = device.type == "cuda"
    side, dtype = (8192, torch.bfloat16) if gpu else (1024, torch.float32)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    turns = [elapsed(lambda: void(left @ right), 20 if gpu else 2, device) for _ in range(6)]
    return 2 * side**3 / min(turns)


def summary(
    name: str, speeds: list[float], ratios: list[float], sizes: Sizes, stride: int, peak: float
) -> dict[str, Any]:
    speed = statistics.median(speeds)
    return {
        "name": name, "output_stride": stride, "images_per_second": speed, "slowest": min(speeds),
        "fastest": max(speeds), "ratio": statistics.median(ratios), "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios), "share_of_peak": speed * step_flops(stride, sizes.size) / peak,
    }  # fmt: skip


def show(row: dict[str, Any]) -> None:
    memory = "-" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
    print(
        f"{row['name']:<30}{row['images_per_second']:>9.2f}{row['ratio']:>7.2f}{row['ratio_lowest']:>7.2f}"
        f"{row['ratio_highest']:>7.2f}{memory:>7}{100 * row['share_of_peak']:>7.1f} %{row['first_step_seconds']:>9.1f}",
        flush=True,
    )


if __name__ == "__main__":
    tyro.cli(main)
