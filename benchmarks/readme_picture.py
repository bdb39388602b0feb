"""Draw the picture of the README: `python -m benchmarks.readme_picture`. Scenes, labels, predictions."""

import numpy as np
from PIL import Image

from benchmarks.results import ROOT
from deeplab_lesson.data import Scenes, bundled, colorize
from deeplab_lesson.data.files import write_picture
from deeplab_lesson.inference import predict
from deeplab_lesson.training import load_checkpoint

PICTURES = (0, 2, 9)  # of the test split: the first with few overlaps, for a reader's first look
GAP = 6


def main() -> None:
    """Write book/_static/scenes.png: picture, label, prediction, twice as large as drawn."""
    model, _ = load_checkpoint(bundled("weights/deeplabv3plus_mini.safetensors"))
    rows = []
    for index in PICTURES:
        image, label = Scenes("test").read(index)
        row = [image, colorize(label), colorize(predict(model, image))]
        padded = [np.pad(part, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=255) for part in row]
        rows.append(np.concatenate(padded, axis=1))
    page = Image.fromarray(np.concatenate(rows, axis=0))
    page = page.resize((2 * page.width, 2 * page.height), Image.Resampling.NEAREST)
    write_picture(ROOT / "book" / "_static" / "scenes.png", page)


if __name__ == "__main__":
    main()
