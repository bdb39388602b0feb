"""One update of the weights: send a batch, forward, backward, clip, step. Nothing here waits for the device.

A GPU works through what it is given while Python already prepares the next step; every look at a number on it (item(),
an if) would make Python wait until all is done. So the loss stays on the device, and whether it is finite is noted
there and looked at once in a while (`first_bad`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deeplab_lesson.losses import count_valid_pixels
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.models.panoptic import PanopticDeepLab
from deeplab_lesson.training import distributed
from deeplab_lesson.training.compiled import compile_or_keep
from deeplab_lesson.training.config import TrainConfig
from deeplab_lesson.training.forward import ModelWithLoss
from deeplab_lesson.training.hardware import fast_kernels
from deeplab_lesson.training.optim import build_optimizer, build_schedule, set_learning_rate
from deeplab_lesson.training.step_loss import StepLoss, subsample


class Update:
    """Takes one step of the optimizer at each call.

    Args:
        model: is moved to the device, in the memory layout of the settings.
        class_weights: [C] on the CPU, as the loss has them.
        pool: sums a count of pixels over all processes.
    """

    def __init__(
        self,
        model: SegmentationModel,
        config: TrainConfig,
        device: torch.device,
        precision: torch.dtype,
        *,
        class_weights: Tensor | None = None,
        pool: Callable[[Tensor], Tensor] = lambda count: count,
    ) -> None:
        self.model, self.config, self.device, self.pool = model, config, device, pool
        self.class_weights = class_weights
        self.memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        model.to(device, memory_format=self.memory_format)  # type: ignore[call-overload]
        self.loss = StepLoss(
            config.losses,
            class_weights=None if class_weights is None else class_weights.to(device),
            label_stride=config.label_stride,
            auxiliary_weight=config.auxiliary_weight,
            center_sigma=config.center_sigma,
        )
        self.optimizer = build_optimizer(model, config)
        self.schedule = build_schedule(config)
        self.scaler = torch.GradScaler(device.type, enabled=precision == torch.float16)
        self.first_bad_step = torch.tensor(-1, device=device)
        self.forward: nn.Module = ModelWithLoss(model, self.loss, precision)
        self.compiles = config.compile
        if not self.compiles:
            self.forward = self._data_parallel(self.forward)

    def __call__(self, step: int, images: Tensor, labels: Tensor, instances: Tensor | None = None) -> Tensor:
        """Take the step number `step`, counted from 0, and return its loss on the device."""
        self.model.train()
        set_learning_rate(self.optimizer, self.schedule(step))
        self.optimizer.zero_grad(set_to_none=True)
        with fast_kernels(self.config, self.device):
            loss = self._gradients(images, labels, instances)
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
            bad = ~loss.isfinite()
            if not self.scaler.is_enabled():  # float16's scaler meets overflows and skips those steps itself
                bad = bad | ~norm.isfinite()
            self.first_bad_step.masked_fill_(bad & (self.first_bad_step < 0), step + 1)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss

    def first_bad(self) -> int | None:
        """The first step whose loss or gradient was not finite, if there was one. Waits for the device."""
        step = int(self.first_bad_step)
        return step if step >= 0 else None

    def _gradients(self, images: Tensor, labels: Tensor, instances: Tensor | None) -> Tensor:
        """Leave the gradients of a batch, taken in config.accumulate pieces, and return its loss."""
        valid_pixels, losses = self._valid_pixels(labels), list[Tensor]()
        maps = [labels.to(self.device, non_blocking=True), *([] if instances is None else [instances])]
        pieces = list(zip(*(tensor.chunk(self.config.accumulate) for tensor in (images, *maps)), strict=True))
        for number, (pictures, *targets) in enumerate(pieces, start=1):
            pictures = pictures.to(self.device, memory_format=self.memory_format, non_blocking=True)
            if self.compiles:
                module = compile_or_keep(self.forward, pictures, *targets, valid_pixels=valid_pixels)
                self.forward, self.compiles = self._data_parallel(module), False
            with distributed.averaging(self.forward, on=number == len(pieces)):
                loss = self.forward(pictures, *targets, valid_pixels=valid_pixels) / self.config.accumulate
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        return distributed.mean_over_processes(torch.stack(losses).sum())

    def _valid_pixels(self, labels: Tensor) -> Tensor | None:
        """What each part of a batch divides its sum over pixels by, so that the parts' mean is the batch's."""
        if (parts := distributed.world_size() * self.config.accumulate) == 1:
            return None
        count = count_valid_pixels(subsample(labels, self.config.label_stride).long(), self.class_weights)
        share = (self.pool(count) / parts).item()  # counted on the CPU, where the labels come from: no waiting
        return torch.full((), share, device=self.device)

    def _data_parallel(self, module: nn.Module) -> nn.Module:
        unused = self.config.auxiliary_weight == 0 or isinstance(self.model, PanopticDeepLab)
        return distributed.data_parallel(module, find_unused=unused)

    def state(self) -> dict[str, Any]:
        """What going on needs beside the weights."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
