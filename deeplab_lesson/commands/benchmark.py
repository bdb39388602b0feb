"""deeplab-lesson benchmark."""

import itertools
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from tyro.conf import Positional, arg

from deeplab_lesson.commands.evaluate import check_json_name

if TYPE_CHECKING:
    from deeplab_lesson.inference.speed import Speed

Mode = Literal["eager", "compiled", "onnx"]
Precision = Literal["float32", "bfloat16", "float16"]
CLASSES = 21
HEADER = (
    f"{'model':<26}{'size':>10}{'batch':>6}{'precision':>10}{'mode':>9}{'parameters':>13}{'multiply-adds':>15}"
    f"{'ms':>9}{'from':>9}{'to':>9}{'pictures/s':>12}{'peak MiB':>10}"
)


def benchmark_command(
    models: Positional[tuple[str, ...]] = ("deeplabv3plus_mini",),
    size: tuple[int, int] = (513, 513),
    batch: tuple[int, ...] = (1,),
    precision: tuple[Precision, ...] = ("float32",),
    modes: tuple[Mode, ...] = ("eager",),
    repeats: int = 10,
    device: str = "auto",
    json_file: Annotated[Path | None, arg(name="json")] = None,
) -> None:
    """Measure inference: latency, pictures a second and memory of models, as they are, compiled, and by ONNX Runtime.

    Models have random weights and 21 classes. Each row: two calls that do not count, then the median, the quickest and
    the slowest call for one batch; multiply-adds are those of one picture. Peak memory is what a call needs beyond
    weights and pictures.

    Args:
        models: names or shell patterns, such as 'deeplabv3plus_*'.
        size: height and width of the pictures.
        batch: one or more numbers of pictures that go through the model together.
        precision: of autocast, one or more.
        modes: eager is the model as it is, compiled is torch.compile, onnx is ONNX Runtime.
        repeats: calls that count.
        device: cuda, mps, cpu or auto.
        json_file: also write the rows into this file; its name ends in .json.
    """
    from deeplab_lesson.data.files import write_atomically
    from deeplab_lesson.training.hardware import choose_device, choose_precision

    if json_file is not None:
        check_json_name("--json", json_file)
    names = _names(models)
    _check_numbers(size, batch, repeats)
    where = choose_device(device)
    types = {name: choose_precision(name, where) for name in precision}
    machine = _machine(where)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(HEADER, flush=True)
    rows = []
    for name in names:
        subject = _Subject.build(name, size, where)
        for number, kind, mode in itertools.product(batch, precision, modes):
            row = {
                "model": name, "height": size[0], "width": size[1], "batch": number, "precision": kind, "mode": mode,
                "parameters": subject.parameters, "multiply_adds": subject.multiply_adds,
                **subject.measure(number, types[kind], mode, repeats),
            }  # fmt: skip
            print(_line(row), flush=True)
            rows.append(row)
    if json_file is not None:
        record = {**machine, "repeats": repeats, "rows": rows}
        write_atomically(json_file, (json.dumps(record, indent=1) + "\n").encode())


@dataclass(frozen=True)
class _Subject:
    """A model on its device, and what it costs."""

    model: torch.nn.Module
    size: tuple[int, int]
    device: torch.device
    parameters: int
    multiply_adds: int

    @classmethod
    def build(cls, name: str, size: tuple[int, int], device: torch.device) -> "_Subject":
        from deeplab_lesson.cost import count_multiply_adds
        from deeplab_lesson.models.registry import create_model

        model = create_model(name, CLASSES).eval().requires_grad_(False)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        multiply_adds = count_multiply_adds(model, size)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # as in training
        return cls(model, size, device, parameters, multiply_adds)

    def measure(self, batch: int, precision: torch.dtype, mode: str, repeats: int) -> dict[str, Any]:
        """The measured part of a row; where there is none, "note" says why."""
        from deeplab_lesson.inference.engines import Unavailable
        from deeplab_lesson.training.memory import is_out_of_memory

        try:
            speed = self._speed(batch, precision, mode, repeats)
        except Unavailable as error:
            return {"note": str(error)}
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            peak = None if mode == "onnx" and self.device.type != "cpu" else speed.peak_bytes  # not PyTorch's memory
            return {
                "seconds": speed.median, "seconds_from": speed.seconds[0], "seconds_to": speed.seconds[-1],
                "pictures_per_second": batch / speed.median, "peak_bytes": peak,
            }  # fmt: skip
        return self._smaller(batch, precision, mode)  # out here the error no longer holds the tensors

    def _speed(self, batch: int, precision: torch.dtype, mode: str, repeats: int) -> "Speed":
        from deeplab_lesson.inference.engines import engine
        from deeplab_lesson.inference.speed import measure_speed

        images = torch.randn(batch, 3, *self.size, generator=torch.Generator().manual_seed(0))
        images = images.to(self.device, memory_format=torch.channels_last)
        with (
            torch.inference_mode(mode != "onnx"),
            engine(mode, self.model, images, precision) as call,
        ):  # export refuses
            return measure_speed(call, self.device, repeats)

    def _smaller(self, batch: int, precision: torch.dtype, mode: str) -> dict[str, Any]:
        """What to say, and which batch fits, when this one does not."""
        from deeplab_lesson.inference.speed import largest_batch
        from deeplab_lesson.training.memory import is_out_of_memory

        def fits(smaller: int) -> bool:
            try:
                self._speed(smaller, precision, mode, repeats=1)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                return False
            finally:
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            return True

        largest, tried = largest_batch(fits, batch)
        size = f"{self.size[0]}x{self.size[1]}"
        advice = (
            f"the largest that fits is {largest}" if largest else f"not one picture of {size} fits: take a smaller one"
        )
        note = f"out of memory at batch {batch}; {advice} (tried {', '.join(map(str, tried))})"
        return {"note": note, "largest_batch": largest, "tried": tried}


def _names(patterns: tuple[str, ...]) -> list[str]:
    """The models that the patterns name, each once."""
    from deeplab_lesson.models.registry import list_models

    found: dict[str, None] = {}
    for pattern in patterns:
        matching = list_models(pattern)
        if not matching:
            raise ValueError(f"no model matches {pattern!r}: there are {', '.join(list_models())}")
        found.update(dict.fromkeys(matching))
    if not found:
        raise ValueError("no model is named: give names or patterns, such as deeplabv3plus_mini")
    return list(found)


def _check_numbers(size: tuple[int, int], batch: tuple[int, ...], repeats: int) -> None:
    from deeplab_lesson.models.base import SMALLEST_IMAGE

    if min(size) < SMALLEST_IMAGE:
        raise ValueError(f"--size {size[0]} {size[1]}: allowed are sides from {SMALLEST_IMAGE} pixels")
    if not batch or min(batch) < 1:
        raise ValueError(f"--batch {' '.join(map(str, batch))}: allowed are one or more whole numbers from 1")
    if repeats < 1:
        raise ValueError(f"--repeats {repeats}: allowed are whole numbers from 1")


def _line(row: dict[str, Any]) -> str:
    start = (
        f"{row['model']:<26}{row['height']:>5}x{row['width']:<4}{row['batch']:>6}{row['precision']:>10}{row['mode']:>9}"
        f"{row['parameters']:>13,}{row['multiply_adds'] / 1e9:>13.2f} B"
    )
    if "note" in row:
        return f"{start}  {row['note']}"
    times = "".join(f"{1000 * row[key]:>9.1f}" for key in ("seconds", "seconds_from", "seconds_to"))
    peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}"
    return f"{start}{times}{row['pictures_per_second']:>12.1f}{peak:>10}"


def _machine(device: torch.device) -> dict[str, Any]:
    """What someone needs to measure it again."""
    from deeplab_lesson import __version__

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "-"
    return {
        "device": f"{device} ({name})", "threads": torch.get_num_threads(), "load average": load,
        "torch": torch.__version__, "deeplab_lesson": __version__,
    }  # fmt: skip
