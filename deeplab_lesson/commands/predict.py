"""deeplab-lesson predict."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def predict_command(
    checkpoint: Positional[Path],
    inputs: Positional[tuple[str, ...]],
    out: Path = Path("predictions"),
    weights: Literal["torchvision"] | None = None,
    device: str = "auto",
) -> None:
    """Label pictures: palette PNGs of class ids, and overlays with a legend.

    Args:
        checkpoint: a run's folder (its best checkpoint) or a .safetensors file; with --weights left out.
        inputs: picture files, folders or globs.
        out: the folder for the results.
        weights: torchvision takes its published DeepLab v3 (ResNet-50, VOC's 21 classes) instead of a checkpoint.
        device: cuda, mps, cpu or auto.
    """
    from deeplab_lesson.inference import predict_files, predict_files_with
    from deeplab_lesson.interop import published_model
    from deeplab_lesson.training.hardware import choose_device

    where = str(choose_device(device))
    if weights is not None:  # then there is no checkpoint, and the first word is a picture
        pairs = predict_files_with(*published_model(device=where), (str(checkpoint), *inputs), out)
    elif inputs:
        pairs = predict_files(checkpoint, inputs, out, device=where)
    else:
        raise ValueError("no picture is named: give files, folders or globs after the checkpoint")
    for picture, target in pairs:
        print(f"{picture} -> {target}")
