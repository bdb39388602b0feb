"""deeplab-lesson evaluate."""

import json
import sys
from pathlib import Path
from typing import Annotated

from tqdm import tqdm
from tyro.conf import Positional, arg

from deeplab_lesson.training.config import DataName, open_dataset


def evaluate_command(
    checkpoint: Positional[Path],
    data: DataName = "scenes",
    root: Path | None = None,
    split: str = "val",
    scenes_size: tuple[int, int] = (128, 128),
    batch_size: int = 8,
    workers: int = 0,
    device: str = "auto",
    json_file: Annotated[Path | None, arg(name="json")] = None,
) -> None:
    """Score a model: IoU by class, mean IoU, pixel accuracy, mean IoU near boundaries by band width.

    Args:
        checkpoint: a run's folder (its best checkpoint) or a .safetensors file.
        data: the kind of data.
        root: the data's folder (not for scenes).
        split: train, val, test, ...
        scenes_size: height and width of procedural scenes.
        batch_size: pictures of one size that go through the model together.
        workers: processes that read pictures.
        device: cuda, mps, cpu or auto.
        json_file: also write the scores into this file; its name ends in .json.
    """
    from deeplab_lesson.data.files import write_atomically
    from deeplab_lesson.inference import class_colors
    from deeplab_lesson.training.checkpoint import load_checkpoint
    from deeplab_lesson.training.evaluation import evaluate
    from deeplab_lesson.training.hardware import choose_device

    if json_file is not None and (json_file.suffix != ".json" or json_file.is_dir()):
        raise ValueError(f"--json {json_file}: allowed is a file name that ends in .json, so that nothing else is lost")
    model, metadata = load_checkpoint(checkpoint, device=str(choose_device(device)))
    dataset = open_dataset(data, split, root, scenes_size=scenes_size)
    classes, _ = class_colors(metadata)
    if list(dataset.classes) != classes:
        raise ValueError(
            f"{checkpoint} was trained on the classes {', '.join(classes)}, and the data has "
            f"{', '.join(dataset.classes)}: evaluate on data with the same classes in the same order"
        )
    with tqdm(total=len(dataset), unit="picture", disable=not sys.stderr.isatty()) as bar:
        scores = evaluate(
            model,
            dataset,
            batch_size=batch_size,
            workers=workers,
            progress=lambda done: bar.update(done - bar.n),
        )
    print(f"{metadata['model']['name']} on {data} {split}\n{scores}")
    if json_file is not None:
        write_atomically(json_file, (json.dumps(scores.to_json(), indent=1) + "\n").encode())
