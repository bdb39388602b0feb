"""One training on several processes, by PyTorch's own engine: what its processes share, and who does what.

Each process that torchrun starts holds the whole model and takes its part of every batch. DistributedDataParallel
averages their gradients, so that all weights stay equal. Counts and the wish to stop travel between the hosts by gloo,
what GPUs have computed by nccl. Without torchrun there is one process, and each function does the obvious.
"""

import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from deeplab_lesson.data.datasets import SegmentationDataset
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training.batch_norm import FrozenBatchNorm2d
from deeplab_lesson.training.evaluation import Evaluation, evaluate
from deeplab_lesson.training.interrupt import Stopped, StopSwitch
from deeplab_lesson.training.loader import Shard, check_pictures

GO_ON = "What was saved before is whole: go on with the same command and --resume"
# how gloo and nccl begin the message of a RuntimeError when a peer has gone
_LOST_PEER = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)


def rank() -> int:
    """Return the number of this process, from 0. Process 0 alone writes files and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def joined_processes(device: str = "auto", *, work: str = "training", advice: str = GO_ON) -> Iterator[None]:
    """While entered, this process belongs to the group that torchrun started; without torchrun nothing happens.

    Args:
        device: as in `TrainConfig`; "cpu" connects the processes by gloo alone.
        work: what the processes do together, and
        advice: what to do about it if one of them ends, for the error's message.

    Raises:
        ConnectionError: another process has died or ended with an error.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device != "cpu" and torch.cuda.is_available() else "gloo")
    try:
        yield
        wait_for_all()  # process 0 may still be saving
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or _LOST_PEER.search(str(error))):
            raise
        raise ConnectionError(
            f"process {rank()} of {world_size()} stops, because another process of this {work} has ended: its own "
            f"message says why. {advice}"
        ) from error
    dist.destroy_process_group()  # only after success: with a peer gone, nccl may wait for it here


def own_device(device: torch.device) -> torch.device:
    """Return this process's own device: of several GPUs the one with its local rank.

    Raises:
        ValueError: more processes than GPUs on this machine, or a device that several processes cannot share.
    """
    if world_size() == 1 or device.type == "cpu":
        return device
    if str(device) != "cuda":
        raise ValueError(
            f"device='{device}' with {world_size()} processes: allowed are cuda (each process takes a GPU of its own), "
            "cpu, or auto where there are GPUs"
        )
    local, count = _local_rank(), torch.cuda.device_count()
    if local >= count:
        raise ValueError(
            f"process {local} of this machine has no GPU of its own, since there are {count}: start "
            f"--nproc_per_node={count}, or take --device cpu"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def wait_for_all() -> None:
    """Wait until every process is here."""
    mean_over_processes(torch.zeros(()))  # by gloo: a barrier of nccl's would have to guess the GPU


@contextmanager
def first_on_its_machine() -> Iterator[None]:
    """Let one process of each machine do something, a download, say, before the others find it done."""
    if _local_rank() > 0:
        wait_for_all()
    yield
    if _local_rank() == 0:
        wait_for_all()


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a value over all processes, the same for each."""
    if world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / world_size()


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of process 0: the running statistics that are saved and evaluated with."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def random_states(device: torch.device) -> dict[str, Any]:
    """Return the states of all processes' random generators, one each on the CPU and, where it trains, on the GPU."""
    host = torch.get_rng_state()
    gpu = _gather(torch.cuda.get_rng_state(device)) if device.type == "cuda" else []
    return {"random_state": host, "random_states": _gather(host), "cuda_random_states": gpu}


def set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Set this process's random generators to what `random_states` found."""
    torch.set_rng_state(states["random_states"][rank()] if "random_states" in states else states["random_state"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda_random_states"][rank()], device)


def _gather(value: Tensor) -> list[Tensor]:
    rows = [value.clone() for _ in range(world_size())]
    if world_size() > 1:
        dist.all_gather(rows, value)
    return rows


class AgreedStop(StopSwitch):
    """A wish to stop that every process grants after the same step, whichever of them the signal reached."""

    agreed = False

    def exchange(self, count: Tensor) -> Tensor:
        """Sum a count over all processes; the same message carries the wish to stop."""
        message = torch.stack([count.double(), torch.tensor(float(self.signal is not None), dtype=torch.float64)])
        dist.all_reduce(message)
        self.agreed = bool(message[1] > 0)
        return message[0]

    def check(self) -> None:
        """Raise Stopped if any process had a signal before the last exchange."""
        if self.agreed:
            raise Stopped

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)  # further ones change nothing: torchrun repeats what a scheduler sent


def data_parallel(module: nn.Module, *, find_unused: bool = False) -> nn.Module:
    """Let the backward pass average gradients over all processes; `find_unused` where the loss leaves some out."""
    if world_size() == 1:
        return module
    # Buffers are shared where they are read (share_buffers), not broadcast at every step, where nothing reads them.
    return DistributedDataParallel(
        module, broadcast_buffers=False, find_unused_parameters=find_unused, gradient_as_bucket_view=True
    )


def averaging(module: nn.Module, on: bool) -> AbstractContextManager[None]:
    """Let a `data_parallel` module average gradients or, where not `on`, only add them up in this process."""
    return nullcontext() if on or not isinstance(module, DistributedDataParallel) else module.no_sync()


def synchronize_batch_norm(model: SegmentationModel, device: torch.device) -> SegmentationModel:
    """Let BatchNorm normalize over the parts of all processes together. Before the optimizer is built.

    Raises:
        ValueError: not on a CUDA GPU, or BatchNorm that is frozen.
    """
    if device.type != "cuda":
        raise ValueError(
            f"sync_batch_norm=True on {device.type}: PyTorch's SyncBatchNorm works on CUDA GPUs only; leave it out and "
            "give each process a larger part of the batch, or freeze BatchNorm (freeze_batch_norm)"
        )
    if any(isinstance(layer, FrozenBatchNorm2d) for layer in model.modules()):
        raise ValueError(
            "sync_batch_norm=True with frozen BatchNorm, which uses no statistics of a batch: take one of the two"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return, no-untyped-call]


def evaluate_together(
    model: SegmentationModel,
    dataset: SegmentationDataset,
    stop: StopSwitch,
    *,
    progress: Callable[[int], None] = lambda pictures: None,
    **options: Any,
) -> Evaluation:
    """Score a model on a set, every process on its part; all return the scores of the whole. `options`: `evaluate`'s.

    Args:
        progress: called with the number of pictures that this process has scored.

    Raises:
        Stopped: one of the processes was asked to stop before it had scored its part.
        ValueError: more processes than pictures, or as in `evaluate`.
    """
    check_pictures(world_size(), validation=len(dataset))
    share_buffers(model)

    def look(pictures: int) -> None:
        progress(pictures)
        if stop.signal is not None:
            end(wanted=True)

    def end(wanted: bool) -> None:  # each process comes here once: how often it looks differs with its part
        if mean_over_processes(torch.tensor(float(wanted))) > 0:
            raise Stopped

    def pool(counts: Sequence[Tensor]) -> None:
        end(wanted=False)
        if world_size() > 1:
            message = torch.stack(list(counts))
            dist.all_reduce(message)
            for count, total in zip(counts, message, strict=True):
                count.copy_(total)

    scores = evaluate(model, Shard(dataset, rank(), world_size()), progress=look, pool=pool, **options)
    return replace(scores, pictures=len(dataset))


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0
