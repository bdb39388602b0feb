"""Time the fully connected CRF beside pydensecrf: `python -m benchmarks.crf`.

Both run in one process by turns, so that what else the machine does hits both; the ratio is the median over pairs. The
photographs are scikit-image's, the scores are synthetic (smooth noise): time hardly depends on them.
On a GPU (`--device cuda --batch 16`) ours runs there and pydensecrf on the CPU, per image.
"""

import itertools
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from skimage import data, transform
from torch import Tensor
from torch.nn import functional as F

from benchmarks.crf_golden import run_pydensecrf
from benchmarks.results import ROOT, write_result
from deeplab_lesson.crf import PRESETS, mean_field

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee")


def problem(photograph: str, size: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return logits [1, C, S, S] and the photograph, uint8 [1, 3, S, S]."""
    picture = transform.resize(getattr(data, photograph)(), (size, size), anti_aliasing=True)
    image = torch.from_numpy((255 * picture).round().astype(np.uint8)).permute(2, 0, 1)[None]
    generator = torch.Generator().manual_seed(0)
    coarse = 2 * torch.randn(1, classes, max(2, size // 24), max(2, size // 24), generator=generator)
    logits = F.interpolate(coarse, size=(size, size), mode="bilinear")
    return logits + 0.5 * torch.randn(logits.shape, generator=generator), image


def pydensecrf_marginals(logits: Tensor, image: Tensor, preset: dict[str, Any]) -> Tensor:
    """Run pydensecrf with the same parameters; it builds its lattices anew, as ours does."""
    picture = image[0].permute(1, 2, 0).numpy()
    return torch.from_numpy(run_pydensecrf(logits[0].numpy(), picture, preset)).view(logits.shape)


def seconds(call: Callable[[], Tensor], device: str) -> tuple[float, Tensor]:
    """Time one call, to its end on the device."""
    start = time.perf_counter()
    result = call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def compare(
    size: int, preset: dict[str, Any], options: dict[str, Any], repeats: int, device: str, batch: int
) -> dict[str, Any]:
    """Measure pairs: theirs, ours, on each photograph in turn. Ours is per image where there is a batch."""
    theirs, ours, agreement = [], [], []
    for repeat in range(repeats + 1):  # the first pair warms up
        logits, image = problem(PHOTOGRAPHS[repeat % len(PHOTOGRAPHS)], size, 21)
        many = (logits.to(device).expand(batch, -1, -1, -1), image.to(device).expand(batch, -1, -1, -1))
        their_time, reference = seconds(lambda: pydensecrf_marginals(logits, image, preset), "cpu")  # noqa: B023
        our_time, marginals = seconds(lambda: mean_field(*many, **{**preset, **options}), device)  # noqa: B023
        if repeat:
            theirs.append(their_time)
            ours.append(our_time / batch)
            agreement.append((marginals[:1].cpu().argmax(1) == reference.argmax(1)).double().mean().item())
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return {
        "ours_s": statistics.median(ours),
        "pydensecrf_s": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "label_agreement": min(agreement),
    }


def peak_memory(size: int, preset: dict[str, Any], theirs: bool) -> float:
    """Return by how many MB one call raises the peak of a fresh process, inputs not counted."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, (size, preset, theirs))


def _peak_memory(size: int, preset: dict[str, Any], theirs: bool) -> float:
    torch.set_num_threads(1)
    logits, image = problem("astronaut", size, 21)
    run = pydensecrf_marginals if theirs else lambda logits, image, preset: mean_field(logits, image, **preset)
    run(*problem("astronaut", 65, 21), preset)  # libraries load
    before = _resident_mb()
    run(logits, image, preset)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(
    sizes: tuple[int, ...] = (321, 513),
    iterations: tuple[int, ...] = (5, 10),
    presets: tuple[str, ...] = ("krahenbuhl2011", "deeplab_v1", "deeplab_v2_resnet101"),
    threads: tuple[int, ...] = (1, 2),
    repeats: int = 9,
    device: str = "cpu",
    batch: int = 1,
    out: Path | None = ROOT / "book" / "results" / "crf_cpu.json",
) -> None:
    """Print a table, and write it."""
    start, rows = time.perf_counter(), []
    print(f"load {os.getloadavg()[0]:.1f} before; each row: median of {repeats} pairs\n")
    print(f"{'preset':<22}{'size':>5}{'it':>4}{'threads':>9}{'ours':>8}{'theirs':>8}{'ratio':>7}   range      labels")
    for count, size, steps, name in itertools.product(threads, sizes, iterations, presets):
        torch.set_num_threads(count)
        preset = {**PRESETS[name], "iterations": steps}
        for option in ({},) if device == "cpu" else ({}, {"appearance": "attention", "normalization": "after"}):
            row = compare(size, preset, option, repeats, device, batch)
            rows.append({"preset": name, "size": size, "iterations": steps, "threads": count, **option, **row})
            low, high = row["ratio_range"]
            note = "  attention" if option else ""
            print(
                f"{name:<22}{size:>5}{steps:>4}{count:>9}{row['ours_s']:>8.3f}{row['pydensecrf_s']:>8.3f}"
                f"{row['ratio']:>7.2f}   {low:.2f}-{high:.2f}  {row['label_agreement']:.4f}{note}",
                flush=True,
            )
    memory = {}
    if device == "cpu":
        for name in presets:
            ours, theirs = (peak_memory(max(sizes), dict(PRESETS[name]), which) for which in (False, True))
            memory[name] = {"ours_mb": ours, "pydensecrf_mb": theirs}
            print(f"{name:<22}{max(sizes):>5}  peak above the inputs: ours {ours:.0f} MB, pydensecrf {theirs:.0f} MB")
    if out is not None:
        command = f"python -m benchmarks.crf --repeats {repeats} --device {device} --batch {batch}"
        values = {"load": os.getloadavg()[0], "batch": batch, "classes": 21, "rows": rows, "peak_memory": memory}
        write_result(out, command, time.perf_counter() - start, values)


if __name__ == "__main__":
    tyro.cli(main)
