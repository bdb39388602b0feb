"""How long a call takes, and how much memory."""

import ctypes
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

WARM_UP = 2  # the first calls choose algorithms, reorder weights and fill caches


@dataclass(frozen=True)
class Speed:
    """The seconds of each call in rising order, and the memory beyond what was there before, None where unknown."""

    seconds: tuple[float, ...]
    peak_bytes: int | None

    @property
    def median(self) -> float:
        """Half of the calls were quicker."""
        return statistics.median(self.seconds)


@torch.inference_mode()
def measure_speed(call: Callable[[], Any], device: torch.device, repeats: int) -> Speed:
    """Call twice without counting, then `repeats` times, each with all that it starts on a GPU.

    The memory is the peak of all calls over what was in use before the first one (weights and pictures): on CUDA what
    PyTorch's tensors take; on a CPU under Linux the process's resident memory, whose high-water mark a process may
    set back itself, so that no second process is needed. What other threads do meanwhile counts too.
    """
    memory = _CudaMemory(device) if device.type == "cuda" else _ProcessMemory()
    times = []
    for number in range(WARM_UP + repeats):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        if number >= WARM_UP:
            times.append(time.perf_counter() - start)
    return Speed(tuple(sorted(times)), memory.peak())


def largest_batch(fits: Callable[[int], bool], failed: int) -> tuple[int, list[int]]:
    """Find the largest batch that fits, by halving the interval between one that fits and one that does not.

    Args:
        fits: tries a batch.
        failed: a batch that does not fit.

    Returns:
        The batch, 0 if not even one picture fits; and all that were tried, `failed` first.
    """
    low, high, tried = 0, failed, [failed]
    while high - low > 1:
        middle = (low + high) // 2
        tried.append(middle)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low, tried


class _CudaMemory:
    def __init__(self, device: torch.device) -> None:
        self.device = device
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        self.before = torch.cuda.memory_allocated(device)

    def peak(self) -> int | None:
        return torch.cuda.max_memory_allocated(self.device) - self.before


class _ProcessMemory:
    """Linux keeps the largest resident size of a process, and lets it be set back to the present one."""

    def __init__(self) -> None:
        try:
            ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, or it would be used again unseen
            Path("/proc/self/clear_refs").write_text("5")
            self.before = _resident("VmRSS")
        except (OSError, AttributeError, TypeError):  # another system, another C library
            self.before = None

    def peak(self) -> int | None:
        largest = _resident("VmHWM")
        return None if self.before is None or largest is None else max(0, largest - self.before)


def _resident(name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
