"""What a training tells: a progress bar, metrics.jsonl, and TensorBoard where it is installed."""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from deeplab_lesson.training.config import TrainConfig


class Reporter:
    """Shows loss, learning rate, pictures a second and time left, and writes the numbers down.

    In a terminal or a live notebook it is a bar; elsewhere (a log file, a page being built) it is one line at each
    record. On resuming, records after the step resumed from are removed, so that none stands twice.
    """

    def __init__(self, folder: Path, first_step: int, steps: int, batch_size: int, *, tensorboard: bool) -> None:
        self.path = folder / "metrics.jsonl"
        self.batch_size = batch_size
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            kept = [line for line in _whole_lines(self.path) if _step(line, self.path) <= first_step]
            self.path.write_text("".join(kept), encoding="utf-8")
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed in __exit__
        self.bar = _bar(first_step, steps)
        self.board = _board(folder, first_step) if tensorboard else None
        self.mark = (time.perf_counter(), first_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # every line was flushed; what a full disk refused is refused again
            self.file.close()
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def tick(self) -> None:
        """Count one step."""
        self.bar.update(1)

    def restart_clock(self, step: int) -> None:
        """Leave the time since the last record (an evaluation, say) out of the speed."""
        self.mark = (time.perf_counter(), step)

    def record(self, step: int, loss: float, learning_rate: float) -> None:
        """Write down a stretch of training."""
        seconds, since = time.perf_counter() - self.mark[0], self.mark[1]
        speed = (step - since) * self.batch_size / seconds if step > since and seconds > 0 else 0.0
        self.restart_clock(step)
        self.bar.set_postfix(loss=f"{loss:.3f}", lr=f"{learning_rate:.2g}", images_s=f"{speed:.0f}")
        self._write({"step": step, "loss": loss, "learning_rate": learning_rate, "images_per_second": round(speed, 1)})

    def scores(self, step: int, scores: dict[str, Any]) -> None:
        """Write down an evaluation."""
        self.say(f"step {step}: validation mIoU {100 * scores['mean_iou']:.1f} %")
        self._write({"step": step, **scores})

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        tqdm.write(text)

    def _write(self, record: dict[str, Any]) -> None:
        try:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        except OSError as error:
            raise OSError(
                error.errno,
                f"{self.path} could not be written ({error.strerror}): the checkpoints of the run are whole; free some "
                "space, then repeat the command with resume",
            ) from error
        if self.board is not None:
            for key, value in record.items():
                if isinstance(value, float):
                    self.board.add_scalar(key, value, record["step"])


def no_longer_finite(step: int, config: TrainConfig, *, saved: bool) -> ValueError:
    """Return the error about a training that has left the numbers: where it did, what is left, what to try."""
    return ValueError(
        f"the loss or its gradient is not finite at step {step}; "
        + (f"the checkpoint from before is whole in {config.out}" if saved else "nothing had been saved yet")
        + f". Lower learning_rate (now {config.learning_rate}), add warmup_steps, or look for pictures and labels "
        "that are not what they should be"
    )


class SilentReporter(Reporter):
    """For the processes beside the first one: tells nothing, writes nothing."""

    def __init__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def tick(self) -> None:
        pass

    def restart_clock(self, step: int) -> None:
        pass

    def record(self, step: int, loss: float, learning_rate: float) -> None:
        pass

    def scores(self, step: int, scores: dict[str, Any]) -> None:
        pass

    def say(self, text: str) -> None:
        pass


def open_reporter(config: TrainConfig, first_step: int, *, silent: bool = False) -> Reporter:
    """Return what reports about the run in `config.out` from its step `first_step`."""
    if silent:
        return SilentReporter()
    return Reporter(config.out, first_step, config.steps, config.batch_size, tensorboard=config.tensorboard)


def _step(line: str, path: Path) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path} has a line that is no record of a training, {line[:60]!r}: it is damaged; take the line out, or "
            "move the file away (the checkpoints do not need it), then repeat the command with resume"
        ) from error


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that a kill may have cut in its last one."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return lines if not lines or lines[-1].endswith("\n") else lines[:-1]


def _bar(first_step: int, steps: int) -> Any:
    if _in_live_notebook():
        from tqdm.notebook import tqdm as bar
    else:
        bar = tqdm
    silent = bar is tqdm and not sys.stderr.isatty()
    return bar(total=steps, initial=first_step, unit="step", dynamic_ncols=True, disable=silent)


def _in_live_notebook() -> bool:
    """True in a Jupyter kernel, but not while a page is being built: there is nobody to watch a bar."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config and not os.environ.get("DEEPLAB_STATIC")


def _board(folder: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder / "tensorboard", purge_step=first_step)
