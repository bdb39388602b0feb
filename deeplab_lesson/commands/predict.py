"""deeplab-lesson predict."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from deeplab_lesson.commands.evaluate import check_windows


def predict_command(
    checkpoint: Positional[Path],
    inputs: Positional[tuple[str, ...]],
    out: Path = Path("predictions"),
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    crf: str | None = None,
    panoptic: bool = False,
    weights: Literal["torchvision"] | None = None,
    window: tuple[int, int] | None = None,
    overlap: tuple[int, int] | None = None,
    device: str = "auto",
) -> None:
    """Label pictures: palette PNGs of class ids, and overlays with a legend.

    Args:
        checkpoint: a run's folder (its best checkpoint) or a .safetensors file; with --weights left out.
        inputs: picture files, folders or globs.
        out: the folder for the results.
        scales: average the probabilities over these sizes of each picture; in the papers 0.5 0.75 1 1.25 1.5 1.75.
        flip: at each scale also average over the picture mirrored left to right.
        crf: then sharpen them with the fully connected CRF, by the .json file of tune-crf or by one of
            deeplab_v1, deeplab_v2_vgg16, deeplab_v2_resnet101, krahenbuhl2011.
        panoptic: number the objects too (panoptic_deeplab models): NAME_instances.png, 16 bits gray; 0 is no object.
        weights: torchvision takes its published DeepLab v3 (ResNet-50, VOC's 21 classes) instead of a checkpoint.
        window: height and width of windows through which a larger picture is seen, in the memory that one takes. The
            result is that of the whole picture; a model that looks at the whole image, as all with image pooling do,
            needs --overlap.
        overlap: height and width that windows share; their probabilities are averaged, which is not equal to the
            whole picture.
        device: cuda, mps, cpu or auto.
    """
    from deeplab_lesson.inference import SlidingWindow, predict_files_with, predict_panoptic_files
    from deeplab_lesson.interop import published_model
    from deeplab_lesson.training.answers import check_scales
    from deeplab_lesson.training.checkpoint import load_checkpoint
    from deeplab_lesson.training.crf_step import read_crf
    from deeplab_lesson.training.hardware import choose_device

    if panoptic and (check_scales(scales) != (1.0,) or flip or crf is not None or weights is not None):
        raise ValueError(
            "--panoptic takes one look at each picture with a panoptic_deeplab checkpoint: leave out --scales, --flip, "
            "--crf and --weights"
        )
    if panoptic and window is not None:
        raise ValueError("--panoptic sees the picture as a whole: leave out --window, or --panoptic for classes alone")
    if weights is not None and window is not None:
        raise ValueError(
            "--weights torchvision sees every picture reduced to the size that it was trained on: leave out --window"
        )
    check_windows(window, overlap)
    check_scales(scales)
    parameters = None if crf is None else read_crf(crf)
    where = str(choose_device(device))
    if weights is not None:  # then there is no checkpoint, and the first word is a picture
        model, metadata = published_model(device=where)
        inputs = (str(checkpoint), *inputs)
    elif inputs:
        model, metadata = load_checkpoint(checkpoint, device=where)
    else:
        raise ValueError("no picture is named: give files, folders or globs after the checkpoint")
    if window is not None:
        model = SlidingWindow(model, window, overlap)
    if panoptic:
        pairs = predict_panoptic_files(model, metadata, inputs, out)
    else:
        pairs = predict_files_with(model, metadata, inputs, out, scales=scales, flip=flip, crf=parameters)
    for picture, target in pairs:
        print(f"{picture} -> {target}")
