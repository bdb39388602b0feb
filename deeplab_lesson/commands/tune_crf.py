"""deeplab-lesson tune-crf."""

import sys
from pathlib import Path

from tyro.conf import Positional

from deeplab_lesson.commands.evaluate import check_json_name, looks, open_model_and_data
from deeplab_lesson.crf.tuning import GRID
from deeplab_lesson.training.config import DataName

SHOWN = 5  # rows of the table


def tune_crf_command(
    checkpoint: Positional[Path],
    data: DataName = "scenes",
    root: Path | None = None,
    split: str = "val",
    scenes_size: tuple[int, int] = (128, 128),
    count: int = 100,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    appearance_weight: tuple[float, ...] = tuple(GRID["appearance_weight"]),
    appearance_sigma_xy: tuple[float, ...] = tuple(GRID["appearance_sigma_xy"]),
    appearance_sigma_rgb: tuple[float, ...] = tuple(GRID["appearance_sigma_rgb"]),
    smoothness_weight: tuple[float, ...] = (3.0,),
    smoothness_sigma_xy: tuple[float, ...] = (3.0,),
    rounds: int = 2,
    device: str = "auto",
    out: Path = Path("crf.json"),
) -> None:
    """Search the CRF's parameters for a model, for --crf of evaluate and predict.

    A grid first, then half steps around its best point. The grid is that of DeepLab v2, for pictures of about 500
    pixels; for small pictures and thin things give smaller widths (sigma_xy). The score of the winner is optimistic,
    since it was chosen for it: evaluate on another split.

    Args:
        checkpoint: a run's folder (its best checkpoint) or a .safetensors file.
        data: the kind of data.
        root: the data's folder (not for scenes).
        split: val, ...; not the one on which the result is to be scored.
        scenes_size: height and width of procedural scenes.
        count: search on at most so many pictures, evenly spread over the split; their probabilities are kept in memory.
        scales: average the probabilities over these sizes of each picture; the same as for evaluate and predict.
        flip: at each scale also average over the picture mirrored left to right; likewise.
        appearance_weight: values to try: how strongly pixels that are near and alike pull each other to one label.
        appearance_sigma_xy: values to try: how near, in pixels.
        appearance_sigma_rgb: values to try: how alike, in units of 0 to 255.
        smoothness_weight: values to try: how strongly near pixels pull each other, whatever their color.
        smoothness_sigma_xy: values to try: how near, in pixels.
        rounds: 1 is the grid alone; each further one halves the steps around the best point.
        device: cuda, mps, cpu or auto.
        out: the file for the parameters; its name ends in .json.
    """
    from deeplab_lesson.inference import tune_crf
    from deeplab_lesson.training.answers import check_scales
    from deeplab_lesson.training.crf_step import write_crf

    check_json_name("--out", out)
    check_scales(scales)
    model, metadata, dataset = open_model_and_data(checkpoint, data, root, split, scenes_size, device)
    grid = {
        "appearance_weight": appearance_weight,
        "appearance_sigma_xy": appearance_sigma_xy,
        "appearance_sigma_rgb": appearance_sigma_rgb,
        "smoothness_weight": smoothness_weight,
        "smoothness_sigma_xy": smoothness_sigma_xy,
    }
    bar = sys.stderr.isatty()
    search = tune_crf(model, dataset, count=count, scales=scales, flip=flip, grid=grid, rounds=rounds, progress=bar)
    name, pictures = metadata["model"]["name"], min(count, len(dataset))
    print(f"{name} on {pictures} pictures of {data} {split}{looks(scales, flip, None)}")
    print("  ".join([*grid, "mean IoU %"]))
    best = sorted(search.trials, key=lambda point: search.trials[point], reverse=True)[:SHOWN]
    for point in best:
        cells = [f"{value:>{len(heading)}g}" for heading, value in zip(grid, point, strict=True)]
        print("  ".join([*cells, f"{100 * search.trials[point]:>10.1f}"]))
    after, before = 100 * search.mean_iou, 100 * search.mean_iou_before
    print(f"best of {len(search.trials)}: {after:.1f}; without the CRF {before:.1f}")
    if after <= before:
        print("the CRF helps nowhere in this grid: try other values, or use the model without it")
    record = {"model": name, "data": data, "split": split, "pictures": pictures, "scales": scales, "flip": flip}
    found = {"mean_iou": search.mean_iou, "mean_iou_before": search.mean_iou_before}
    write_crf(out, search.parameters, **record, **found)
    print(f"{out} written, for --crf {out}")
