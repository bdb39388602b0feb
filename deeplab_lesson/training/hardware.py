"""Where a training runs and in which precision."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deeplab_lesson.training.config import TrainConfig


def choose_device(name: str = "auto") -> torch.device:
    """Return the device asked for; "auto" takes a CUDA GPU, else Apple's, else the CPU.

    Raises:
        ValueError: a device that is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, present in there.items() if present))
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not there.get(kind, False) or (number and not (number.isdigit() and int(number) < count)):
        found = ", ".join(kind for kind, present in there.items() if present)
        raise ValueError(f"device={name!r} is not there: this machine has {found}; take one of these, or auto")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the precision of the forward pass.

    "auto" is bfloat16 on GPUs whose matrix units have it (compute capability 8.0 and up), float16 with
    gradient scaling on older ones such as the T4 (7.5), and float32 elsewhere.

    Raises:
        ValueError: an unknown name, or float16 on a CPU.
    """
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if name not in names:
        raise ValueError(f"precision={name!r}: allowed are auto, {', '.join(names)}")
    if name == "float16" and device.type == "cpu":
        raise ValueError("precision='float16' needs a GPU: take float32 or bfloat16 on a CPU")
    return names[name]


def make_deterministic(device: torch.device) -> None:
    """Let every operation give the same bits each time, where the device can."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


@contextmanager
def fast_kernels(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """While entered, a CUDA GPU computes as the settings tf32 and autotune allow; afterwards as before.

    Only for training steps: their pictures have one size, for which cuDNN looks for its fastest algorithm once.
    Pictures of many sizes, as an evaluation has them, would make it look again and again.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    tf32 = config.tf32 and not config.deterministic
    try:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        cudnn.allow_tf32, cudnn.benchmark = tf32, config.autotune and not config.deterministic
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]
