"""How throughput grows beyond one machine, on paper: `python -m benchmarks.scaling [--write]`.

The model is explained in docs/scaling.md. Its measured part, the step of one device, is read from what
`python -m benchmarks.train_step` has written. With --write the tables in docs/scaling.md are brought up to date.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.results import ROOT
from benchmarks.train_step import our_model

DOCUMENT = ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- begin: python -m benchmarks.scaling --write -->", "<!-- end -->"
DEVICES = (1, 2, 4, 8, 16, 32, 64)
LINKS = {"1 Gbit/s": 1e9 / 8, "10 Gbit/s": 10e9 / 8, "100 Gbit/s": 100e9 / 8, "400 Gbit/s": 400e9 / 8}  # bytes a second
BUCKET = 25 * 2**20  # bytes that DistributedDataParallel sends together (its default, bucket_cap_mb)
BACKWARD = 2 / 3  # share of a step: each multiply-add of the forward pass has two in the backward pass


@dataclass(frozen=True)
class Device:
    """One device's training: seconds of a step, pictures in it, bytes of the gradients."""

    name: str
    step_seconds: float
    batch: int
    gradient_bytes: int


def ring_seconds(size: float, devices: int, bandwidth: float) -> float:
    """Seconds of a ring all-reduce of `size` bytes: each device sends and receives 2 (n - 1) / n of them.

    >>> ring_seconds(1e9, 2, 1e9), ring_seconds(1e9, 1, 1e9)
    (1.0, 0.0)
    """
    return 2 * (devices - 1) / devices * size / bandwidth


def step_seconds(device: Device, devices: int, bandwidth: float, *, overlap: bool = True) -> float:
    """Seconds of a step on so many devices, each with its own batch.

    Args:
        overlap: send a bucket of gradients while the backward pass computes those of the layers before. The last
            bucket is full only when the backward pass has ended, and what takes longer than that pass is not hidden.
    """
    if devices == 1:
        return device.step_seconds
    everything = ring_seconds(device.gradient_bytes, devices, bandwidth)
    if not overlap:
        return device.step_seconds + everything
    last = ring_seconds(min(BUCKET, device.gradient_bytes), devices, bandwidth)
    return max(device.step_seconds + last, (1 - BACKWARD) * device.step_seconds + everything)


def hiding_bandwidth(device: Device) -> float:
    """Bytes a second from which all but the last bucket is hidden on any number of devices."""
    return 2 * device.gradient_bytes / (BACKWARD * device.step_seconds)


def measured_devices(results: Path) -> Iterator[Device]:
    """The fastest of our rungs at each output stride, for every device that was measured."""
    with torch.device("meta"):
        gradient_bytes = 4 * sum(p.numel() for p in our_model(8).parameters())  # float32, under autocast too
    for file in (results / "train_step.json", results / "train_step_cpu.json"):
        if not file.exists():
            continue
        record = json.loads(file.read_text(encoding="utf-8"))
        for stride in (8, 16):
            rows = [
                row for row in record["rows"] if row["output_stride"] == stride and "torchvision" not in row["name"]
            ]
            if rows:
                best: dict[str, Any] = max(rows, key=lambda row: row["images_per_second"])
                size, batch = record["size"], record["batch"]
                yield Device(
                    f"{record['device']}, {record['threads']} CPU thread(s): crop {size}, batch {batch}, output stride "
                    f"{stride} ({record['date']}, commit {record['commit']})",
                    batch / best["images_per_second"], batch, gradient_bytes,
                )  # fmt: skip


def tables(results: Path) -> str:
    """Markdown: for every measured device images a second, and the share of n times one device's, by link."""
    parts = []
    for device in measured_devices(results):
        bandwidth = hiding_bandwidth(device) * 8 / 1e9
        parts.append(
            f"**{device.name}.** A step takes {1000 * device.step_seconds:.0f} ms; its gradients are "
            f"{device.gradient_bytes / 1e6:.0f} MB. From {bandwidth:.2g} Gbit/s on, all but the last bucket is "
            "hidden.\n"
        )
        parts.append("| link | " + " | ".join(f"{n} devices" if n > 1 else "1 device" for n in DEVICES) + " |")
        parts.append("|---" * (len(DEVICES) + 1) + "|")
        for link, speed in LINKS.items():
            for overlap in (True, False):
                cells = []
                for n in DEVICES:
                    seconds = step_seconds(device, n, speed, overlap=overlap)
                    cells.append(f"{n * device.batch / seconds:.3g} ({100 * device.step_seconds / seconds:.0f} %)")
                parts.append(f"| {link}{'' if overlap else ', no overlap'} | " + " | ".join(cells) + " |")
        parts.append("")
    if not (results / "train_step.json").exists():
        parts.append("No GPU has been measured yet: `python -m benchmarks.train_step --preset gpu` adds its tables.")
    return "\n".join(parts).strip()


def main(write: bool = False, results: Path = ROOT / "book" / "results", document: Path = DOCUMENT) -> None:
    """Print the tables.

    Args:
        write: put them into docs/scaling.md too.
    """
    text = tables(results)
    print(text)
    if write:
        page = document.read_text(encoding="utf-8")
        before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
        document.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main)
