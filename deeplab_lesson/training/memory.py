"""A training that does not fit into memory: what was tried, and which smaller setting fits, computed."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from deeplab_lesson.cost import cost
from deeplab_lesson.models.base import SMALLEST_IMAGE, SegmentationModel
from deeplab_lesson.training.batch_norm import FrozenBatchNorm2d
from deeplab_lesson.training.checkpoint import LAST
from deeplab_lesson.training.config import TrainConfig

GIB = 2**30
USABLE = 0.85  # of the memory: the allocator leaves gaps, and convolutions want work space
LOSS_COPIES = 3  # of the logits at full size, in float32: themselves, their log-softmax, their gradient
OPTIMIZER_COPIES = {"sgd": 1, "adamw": 2}  # of the weights: the velocity; the means of gradient and square

_MESSAGE = re.compile(
    r"out of memory|not enough memory|can't allocate memory|DefaultCPUAllocator|ALLOC_FAILED"  # PyTorch, cuDNN
    r"|bad allocation|failed to allocate memory",  # ONNX Runtime
    re.IGNORECASE,
)


class DoesNotFit(MemoryError):
    """The settings want more memory than there is; the text says which fit."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a device: free now, in all, and what this training can have of it."""

    free: int
    total: int
    room: int


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a lack of memory from other errors; on a CPU, in cuDNN and ONNX Runtime it has no type of its own."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    at_runtime = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    return at_runtime and bool(_MESSAGE.search(str(error)))


def memory_of(device: torch.device) -> Memory:
    """Look at a device's memory; of a CPU the machine's."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(free, total, free + torch.cuda.memory_reserved(device))  # other programs have the rest
    page = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    total, free = (page * os.sysconf(name) if page else 0 for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    return Memory(free, total, total)


def bytes_needed(model: SegmentationModel, config: TrainConfig, precision: torch.dtype) -> tuple[int, int]:
    """Estimate what a training step keeps: for the weights, and for each picture that is in it at a time.

    For the weights: themselves, their gradients and the optimizer's memory, in float32. For a picture: what the
    forward pass keeps for the backward pass (`deeplab_lesson.cost`), in `precision`, and the loss's copies of the
    logits. Work space and the outputs beside "out" are left out.
    """
    found = cost(model, config.crop)
    weights = found.parameters * 4 * (2 + OPTIMIZER_COPIES[config.optimizer])
    logits = model.spec["num_classes"] * math.prod(config.crop) * 4
    return weights, found.activation_bytes * precision.itemsize // 4 + LOSS_COPIES * logits


def does_not_fit(
    config: TrainConfig, model: SegmentationModel, precision: torch.dtype, device: torch.device, *, step: int,
    processes: int = 1, saved: bool = False,
) -> DoesNotFit:  # fmt: skip
    """Return the error about a step for which there was not enough memory.

    Args:
        saved: the run has a checkpoint from before.
    """
    memory, pictures = memory_of(device), config.batch_size // config.accumulate // processes
    tried = (
        f"out of memory in step {step}: {model.spec['name']}, batch {config.batch_size}, {pictures} pictures at a "
        f"time, crop {config.crop[0]} {config.crop[1]}, {str(precision).removeprefix('torch.')}, on {device} with "
        f"{memory.free / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    )
    try:
        weights, picture = bytes_needed(model, config, precision)
        advice = _advice(config, model, memory.room, weights, picture, processes)
    except Exception:  # a model of somebody's own that cannot be traced: less advice is better than another error
        advice = f"take half as many pictures at a time: --accumulate {2 * config.accumulate} keeps the batch"
    if precision == torch.float32 and device.type == "cuda":
        advice += "; --precision bfloat16 (float16 on older GPUs) needs about half for the pictures"
    if saved:
        fate = (
            f"The checkpoint from before is whole: these settings are not those of the run, so begin a new one from "
            f"its weights (--start-from {Path(config.out) / LAST} --out FOLDER)"
        )
    else:
        fate = "Nothing had been saved yet: start again with one of these settings"
    return DoesNotFit(f"{tried}. {advice[0].upper()}{advice[1:]}. {fate}")


def _advice(
    config: TrainConfig, model: SegmentationModel, room: int, weights: int, picture: int, processes: int
) -> str:
    share = config.batch_size // processes
    pictures, usable = share // config.accumulate, USABLE * room - weights
    if usable >= pictures * picture:  # the estimate is too low: so many did not fit; count on half of them
        picture = math.floor(2 * usable / pictures)
    fits = max(0, math.floor(usable / picture))
    about = (
        f"a picture takes about {picture / GIB:.2g} GiB, weights and optimizer {weights / GIB:.2g} GiB (estimated), so "
        f"{fits} fit at a time"
    )
    fewest = 2 if _normalizes_batches(model) else 1
    sizes = [share // count for count in range(1, share + 1) if share % count == 0 and share // count >= fewest]
    for size in sizes:  # the largest first
        if size <= fits:
            return f"{about}: --accumulate {share // size} keeps the batch of {config.batch_size}"
    smallest = min(sizes, default=share)
    shrink = math.sqrt(max(0.0, usable) / (smallest * picture))
    crop = [(int(side * shrink) - 1) // 16 * 16 + 1 for side in config.crop]
    if min(crop) >= SMALLEST_IMAGE:
        return f"{about}: take --crop {crop[0]} {crop[1]} with --accumulate {share // smallest}"
    return f"{about}, at no allowed crop: take a smaller model (deeplab-lesson models), or a larger device"


def _normalizes_batches(model: nn.Module) -> bool:
    return any(
        isinstance(layer, nn.modules.batchnorm._BatchNorm) and not isinstance(layer, FrozenBatchNorm2d)
        for layer in model.modules()
    )
