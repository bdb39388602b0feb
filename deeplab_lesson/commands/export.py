"""deeplab-lesson export."""

from pathlib import Path

from tyro.conf import Positional


def export_command(checkpoint: Positional[Path], out: Positional[Path]) -> None:
    """Write a model as an ONNX file for programs without PyTorch, compared with PyTorch's answers.

    The file takes pictures of any size, normalized; what it must be given stands in it, and is printed.

    Args:
        checkpoint: a .safetensors file, or a run's folder (its best checkpoint).
        out: the file to write, such as model.onnx.
    """
    from deeplab_lesson.inference.onnx_file import export_onnx
    from deeplab_lesson.training.checkpoint import load_checkpoint

    model, metadata = load_checkpoint(checkpoint)
    difference = export_onnx(model, out, metadata)
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB\n"
        f"input   images  float32 [N, 3, H, W], RGB normalized with ImageNet's mean and deviation, H and W >= 33\n"
        f"output  logits  float32 [N, {model.spec['num_classes']}, H, W]: the class of a pixel is their largest\n"
        f"ONNX Runtime's logits differ from PyTorch's by at most {difference:.0e} of the largest"
    )
