"""The ways in which a model can be run: as it is, compiled, or by ONNX Runtime."""

import importlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deeplab_lesson.training.memory import is_out_of_memory

MODES = ("eager", "compiled", "onnx")

Run = Callable[[], Any]


class Unavailable(Exception):
    """This machine cannot run a model in this way; the text says why."""


@contextmanager
def engine(mode: str, model: nn.Module, images: Tensor, precision: torch.dtype) -> Iterator[Run]:
    """Make what runs the model once on the images; what is made once, such as compiled code, is made here.

    Args:
        mode: one of `MODES`.
        model: in eval mode, on the images' device, in channels-last order as in training.
        images: float32 [N, 3, H, W], in channels-last order.
        precision: of autocast, as in training; ONNX Runtime takes float32 alone.

    Raises:
        Unavailable: no compiler, no ONNX Runtime, or a model that they do not take.
    """
    if mode == "onnx":
        with _onnx(model, images, precision) as session:
            yield session
        return
    program: Callable[[Tensor], Tensor] = _compiled(model, images, precision) if mode == "compiled" else model

    def run() -> Tensor:
        with _autocast(images, precision):
            return program(images)

    yield run


def _autocast(images: Tensor, precision: torch.dtype) -> torch.autocast:
    return torch.autocast(images.device.type, precision, enabled=precision != torch.float32)


def _compiled(model: nn.Module, images: Tensor, precision: torch.dtype) -> Callable[[Tensor], Tensor]:
    try:
        program: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False)
        with _autocast(images, precision):
            program(images)  # it is compiled now
    except Exception as error:  # there are many that a missing or old compiler leads to
        if is_out_of_memory(error):
            raise
        raise Unavailable(f"torch.compile does not work here: {_first_line(error)}") from error
    return program


@contextmanager
def _onnx(model: nn.Module, images: Tensor, precision: torch.dtype) -> Iterator[Run]:
    if precision != torch.float32:
        raise Unavailable("ONNX Runtime is measured in float32 alone")
    try:
        runtime, *_ = [importlib.import_module(name) for name in ("onnxruntime", "onnx", "onnxscript")]
    except ImportError as error:
        raise Unavailable(f"{error}: pip install onnx onnxruntime onnxscript") from error
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(images.device.type)
    if provider not in runtime.get_available_providers():
        raise Unavailable(f"this ONNX Runtime has no engine for {images.device.type}: pip install onnxruntime-gpu")
    values = images.cpu().contiguous().numpy()
    with tempfile.TemporaryDirectory() as folder:  # open until the session ends: it may read weights when asked to run
        path = Path(folder) / "model.onnx"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(model, (images,), path, dynamo=True, verbose=False)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise Unavailable(f"the model cannot be exported: {_first_line(error)}") from error
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(path, settings, providers=[provider])
        name = session.get_inputs()[0].name
        yield lambda: session.run(None, {name: values})


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}".rstrip(": ")
