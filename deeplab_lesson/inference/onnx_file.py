"""One ONNX file of a model, for programs without PyTorch, compared with the model before it is kept."""

import importlib
import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from deeplab_lesson.data.files import write_atomically
from deeplab_lesson.data.scenes import SMALLEST_SIZE
from deeplab_lesson.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training.evaluation import evaluating

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
EXAMPLE = (2, 3, 65, 97)  # neither 1 nor equal: the exporter would take such sizes for fixed
COMPARED = ((1, 3, 128, 128), (2, 3, 65, 97), (1, 3, 33, 47))  # even and odd, and the smallest


def missing_packages() -> list[str]:
    """The packages that ONNX files need and that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def export_onnx(
    model: SegmentationModel, path: str | Path, metadata: dict[str, Any] | None = None, *, tolerance: float = TOLERANCE
) -> float:
    """Write a model as one ONNX file that takes any batch, height and width, and compare it with the model.

    The file's input is `images`, float32 [N, 3, H, W], H and W at least 33, normalized as `normalize` does it; its
    output is `logits`, float32 [N, C, H, W]. In the file, under the key "deeplab_lesson", stands JSON: mean and
    deviation of the normalization (RGB in 0..1) and `metadata`.

    Args:
        model: put into eval mode for the call, and back afterwards.
        path: nothing is written here when the comparison fails.
        metadata: JSON values, such as what `load_checkpoint` returns.
        tolerance: of the largest difference of a logit, as a part of the largest logit.

    Returns:
        That difference, as ONNX Runtime computes on the CPU.

    Raises:
        ValueError: a package is not installed; the model cannot be exported; its answers are other ones.
    """
    missing = missing_packages()
    if missing:
        raise ValueError(f"an ONNX file needs {', '.join(missing)}: pip install {' '.join(missing)}")
    with evaluating(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter speaks of its own deprecated parts
        content = _program(model, metadata)
        difference = _largest_difference(model, content)
    if not difference <= tolerance:  # nan is no answer either
        raise ValueError(
            f"ONNX Runtime's logits differ from PyTorch's by {difference:.1e} of the largest, allowed is "
            f"{tolerance:.0e}, and {path} was not written: install the versions of constraints.txt"
        )
    write_atomically(Path(path), content)
    return difference


def _program(model: SegmentationModel, metadata: dict[str, Any] | None) -> bytes:
    sizes = {0: Dim("batch", min=1), 2: Dim("height", min=SMALLEST_SIZE), 3: Dim("width", min=SMALLEST_SIZE)}
    device = next(model.parameters()).device
    try:
        program = torch.onnx.export(
            model,
            (torch.zeros(EXAMPLE, device=device),),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": sizes},
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # lines of our code, with the path of this machine
        description = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, **(metadata or {})}
        program.model.metadata_props["deeplab_lesson"] = json.dumps(description)
        content: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # there are many, of three packages
        first = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(
            f"{model.spec} cannot be exported ({type(error).__name__}: {first[:160]}): take another model, or one "
            "fixed size with torch.onnx.export"
        ) from error
    return content


@torch.inference_mode()
def _largest_difference(model: SegmentationModel, content: bytes) -> float:
    """The largest over a few sizes."""
    onnxruntime = importlib.import_module("onnxruntime")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = torch.zeros(())
    for shape in COMPARED:
        images = torch.randn(shape, generator=generator)
        expected: Tensor = model(images.to(next(model.parameters()).device)).cpu()
        (logits,) = session.run(None, {"images": images.numpy()})
        found = (torch.from_numpy(logits) - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
        worst = torch.maximum(worst, found)  # keeps nan
    return float(worst)
