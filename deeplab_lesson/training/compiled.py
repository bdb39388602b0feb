"""torch.compile where it works, and one line that says why where it does not."""

from typing import cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from deeplab_lesson.training import distributed


def compile_or_keep(module: nn.Module, *batch: Tensor, **options: Tensor | None) -> nn.Module:
    """Compile a module that returns a loss; where that fails, say so once and return the module as it is.

    It is tried on a batch, forward and backward, since torch.compile does its work (and fails) at the first call. The
    trial leaves no trace: BatchNorm's statistics, random states and gradients are what they were. So the first step
    is a step like all others, and costs no compiling. The parameters keep their names, as `module` stays as it is.

    Raises:
        torch.OutOfMemoryError: the batch does not fit; compiled or not, it would not.
    """
    device = next(module.parameters()).device
    buffers = [buffer.clone() for buffer in module.buffers()]
    states = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    reason, fast = "", module
    try:
        fast = cast(nn.Module, torch.compile(module, dynamic=False))
        fast(*batch, **options).backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no compiler, no Triton, an operation it cannot do: each raises a kind of its own
        reason = _first_line(error)
    for buffer, before in zip(module.buffers(), buffers, strict=True):
        buffer.copy_(before)
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1], device)
    module.zero_grad(set_to_none=True)
    if distributed.mean_over_processes(torch.tensor(float(bool(reason)))) > 0:  # all processes do the same
        if distributed.rank() == 0:
            tqdm.write(f"--compile: not possible here ({reason or 'on another process'}); going on without it")
        return module
    return fast


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
