"""The training loop, top to bottom: batches, update, record, evaluate, save, and going on after a stop."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deeplab_lesson.data.datasets import SegmentationDataset
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.models.panoptic import PanopticDeepLab
from deeplab_lesson.training import distributed
from deeplab_lesson.training.checkpoint import BEST, LAST, STATE, load_state, save_checkpoint, save_state
from deeplab_lesson.training.config import TrainConfig
from deeplab_lesson.training.data_errors import data_may_change, reading
from deeplab_lesson.training.evaluation import Evaluation
from deeplab_lesson.training.hardware import choose_device, choose_precision, make_deterministic
from deeplab_lesson.training.interrupt import Stopped, StopSwitch
from deeplab_lesson.training.loader import check_shares, class_weights, training_batches
from deeplab_lesson.training.memory import does_not_fit, is_out_of_memory
from deeplab_lesson.training.records import check_state, description, resume_settings, versions
from deeplab_lesson.training.report import Reporter, no_longer_finite, open_reporter
from deeplab_lesson.training.starting_model import starting_model
from deeplab_lesson.training.update import Update


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves: the model in eval mode, its last evaluation, the run's folder, whether it ended."""

    model: SegmentationModel
    evaluation: Evaluation | None
    out: Path
    finished: bool


def train(
    config: TrainConfig,
    *,
    model: SegmentationModel | None = None,
    train_set: SegmentationDataset | None = None,
    val_set: SegmentationDataset | None = None,
) -> TrainResult:
    """Train a model as `config` says; model and data may be given instead of named.

    Ctrl-C and SIGTERM save before they stop. A run that was stopped or killed goes on with resume=True and, on
    a CPU with the same number of threads, ends with the same weights bit for bit. Started by torchrun, it is one
    training on all its processes (docs/distributed.md).

    Raises:
        ConnectionError: another process of the training has died.
        ValueError: settings that make no sense, a folder that already holds a run, a loss that is not finite.
        FileNotFoundError: data or a run that is not there.
        MemoryError: the settings do not fit; says which would.
    """
    with distributed.joined_processes(config.device):
        return Trainer(config, model, train_set, val_set).run()


class Trainer:
    """One training run, from its settings to its last checkpoint."""

    def __init__(
        self,
        config: TrainConfig,
        model: SegmentationModel | None = None,
        train_set: SegmentationDataset | None = None,
        val_set: SegmentationDataset | None = None,
    ) -> None:
        self.config, self.out = config, Path(config.out)
        if not config.resume and (self.out / STATE).exists():
            raise ValueError(
                f"{self.out} already holds a training: go on with it (resume=True, --resume), or choose another "
                "folder (out=..., --out)"
            )
        self.device = distributed.own_device(choose_device(config.device))
        self.precision = choose_precision(config.precision, self.device)
        if config.deterministic:
            make_deterministic(self.device)
        with distributed.first_on_its_machine():  # it downloads what the others then find
            self.train_set = config.open(config.train_split) if train_set is None else train_set
            self.val_set = config.open(config.val_split) if val_set is None else val_set
            torch.manual_seed(config.seed)  # for the initial weights and for dropout
            self.model = starting_model(config, self.train_set.classes, model)
        check_shares(config, distributed.world_size(), self.train_set, self.val_set)
        if config.sync_batch_norm:
            self.model = distributed.synchronize_batch_norm(self.model, self.device)
        if (rank := distributed.rank()) > 0:
            torch.manual_seed(config.seed + rank)  # dropout differs from part to part of a batch
        self.stop = distributed.AgreedStop() if distributed.world_size() > 1 else StopSwitch()
        self.update = Update(
            self.model,
            config,
            self.device,
            self.precision,
            class_weights=class_weights(config, self.train_set),
            pool=self.stop.exchange if isinstance(self.stop, distributed.AgreedStop) else lambda count: count,
        )
        self.step = 0
        self.scored_step = 0  # the last step after which the model was evaluated
        self.best_mean_iou = -1.0
        self.evaluation: Evaluation | None = None
        if config.resume:
            self._restore(load_state(self.out / STATE))

    def run(self) -> TrainResult:
        """Train to the end, or until Ctrl-C or SIGTERM; either way the state is saved."""
        config, losses = self.config, list[Tensor]()
        share = (distributed.rank(), distributed.world_size())
        batches = training_batches(self.train_set, config, self.device, first_step=self.step, share=share)
        reporter = open_reporter(config, self.step, silent=distributed.rank() > 0)
        with reporter, self.stop:
            reporter.say(
                f"{self.model.spec['name']}, {len(self.train_set.classes)} classes, {len(batches.dataset)} pictures, "  # type: ignore[arg-type]
                f"{self.device}, {str(self.precision).removeprefix('torch.')}, step {self.step} of {config.steps}"
                + (f", {share[1]} processes" if share[1] > 1 else "")
            )
            try:
                self._maybe_evaluate(reporter)  # the run may have been stopped during an evaluation
                for images, labels, *instances in reading(batches, self.out):
                    if isinstance(self.model, PanopticDeepLab) and not instances and not losses:
                        reporter.say("the data has no instance maps: centers and offsets are not trained")
                    losses.append(self._update(images, labels, *instances))
                    self.step += 1
                    reporter.tick()
                    if self.step % config.log_every == 0 or self.step == config.steps:
                        self._check_finite()
                        rate = float(self.update.optimizer.param_groups[0]["lr"])
                        reporter.record(self.step, torch.stack(losses).mean().item(), rate)
                        losses.clear()
                    self._maybe_evaluate(reporter)
                    if self.step % config.save_every == 0 or self.step == config.steps:
                        self._save()
                    self.stop.check()
            except Stopped:
                self._save()
                kind = self.stop.signal.name if self.stop.signal else "a signal"
                reporter.say(f"stopped by {kind} at step {self.step} of {config.steps}: saved in {self.out}")
        return TrainResult(self.model.eval(), self.evaluation, self.out, self.step == config.steps)

    def _update(self, images: Tensor, labels: Tensor, instances: Tensor | None = None) -> Tensor:
        try:
            return self.update(self.step, images, labels, instances)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise does_not_fit(
                self.config,
                self.model,
                self.precision,
                self.device,
                step=self.step + 1,
                processes=distributed.world_size(),
                saved=(self.out / STATE).exists(),
            ) from error

    def _check_finite(self) -> None:
        """Look once, for all steps since the last look, whether a loss was not finite."""
        if (step := self.update.first_bad()) is not None:
            raise no_longer_finite(step, self.config, saved=(self.out / STATE).exists())

    def _maybe_evaluate(self, reporter: Reporter) -> None:
        due = self.step % self.config.evaluate_every == 0 or self.step == self.config.steps
        if not due or self.scored_step == self.step:
            return
        self._check_finite()
        with data_may_change(self.out):
            self.evaluation = distributed.evaluate_together(
                self.model, self.val_set, self.stop, workers=self.config.workers
            )
        self.scored_step = self.step
        reporter.scores(self.step, self.evaluation.to_json())
        if self.evaluation.mean_iou > self.best_mean_iou:
            self.best_mean_iou = self.evaluation.mean_iou
            self._save_weights(BEST)
        self._save()
        reporter.restart_clock(self.step)

    def _save_weights(self, name: str) -> None:
        if distributed.rank() == 0:
            about = description(self.config, self.train_set, self.step, self.evaluation)
            save_checkpoint(self.out / name, self.model, about)

    def _save(self) -> None:
        self._check_finite()
        distributed.share_buffers(self.model)
        random_states = distributed.random_states(self.device)  # of all processes
        self._save_weights(LAST)
        if distributed.rank() > 0:
            return
        save_state(
            self.out / STATE,
            {
                "step": self.step,
                "scored_step": self.scored_step,
                "best_mean_iou": self.best_mean_iou,
                "evaluation": json.dumps(self.evaluation and self.evaluation.to_json()),
                "settings": self._settings(),
                "versions": versions(),
                "model": self.model.state_dict(),
                **self.update.state(),
                **random_states,
            },
        )

    def _settings(self) -> dict[str, str]:
        settings = resume_settings(self.config, self.model, self.train_set, self.device, self.precision)
        return settings | {"processes": str(distributed.world_size())}

    def _restore(self, state: dict[str, Any]) -> None:
        if remark := check_state(state, self._settings(), self.out):
            warnings.warn(remark, stacklevel=3)
        self.model.load_state_dict(state["model"])
        self.update.restore(state)
        distributed.set_random_states(state, self.device)
        self.step, self.scored_step = state["step"], state["scored_step"]
        self.best_mean_iou = state["best_mean_iou"]
        self.evaluation = Evaluation.from_json(json.loads(state["evaluation"]))
