"""The table that grows through the book: each chapter's small model beside those before it, on one set of scenes."""

import json
import math
from collections.abc import Iterable
from typing import Any

from deeplab_lesson.cost import cost
from deeplab_lesson.data.bundled import bundled
from deeplab_lesson.data.scenes import Scenes
from deeplab_lesson.models.registry import create_model
from deeplab_lesson.receptive_field import receptive_field

SCENE = (128, 128)
BANDS = (1, 2, 4, 8, 16)  # pixels


def measured(name: str) -> dict[str, Any]:
    """Return the scores of a trained small model on the 512 test scenes, as the command that trained it measured them.

    `mean_iou`, `pixel_accuracy`, `iou` by class and `trimap_mean_iou` by width of the band ("1" to "16" pixels), all
    shares of 1.

    Raises:
        FileNotFoundError: no trained weights of that name are bundled.
    """
    scores: dict[str, Any] = json.loads(bundled(f"weights/{name}.json").read_text(encoding="utf-8"))["test"]
    return scores


def running_table(names: Iterable[str]) -> str:
    """Write a row for each of the trained small models.

    mIoU over all pixels and within 1 to 16 pixels of a boundary, percent (see `measured`); parameters, multiply-adds
    for one scene of 128x128 and the receptive field of one output pixel ("all": the whole image), computed here.

    Raises:
        FileNotFoundError: no trained weights of that name are bundled.
    """
    lines = [
        f"{'':18}{'mIoU %, all and within n pixels':>31}{'param-':>9}{'multiply-':>10}{'receptive':>10}",
        f"{'model':<18}{'all':>6}" + "".join(f"{band:>5}" for band in BANDS) + f"{'eters':>9}{'adds':>10}{'field':>10}",
    ]
    for name in names:
        scores = measured(name)
        model = create_model(name, num_classes=len(Scenes.classes))
        counted = cost(model, SCENE)
        size = receptive_field(model, SCENE).size[0]
        bands = "".join(f"{100 * scores['trimap_mean_iou'][str(band)]:>5.1f}" for band in BANDS)
        field = "all" if math.isinf(size) else f"{size:.0f}"
        lines.append(
            f"{name:<18}{100 * scores['mean_iou']:>6.1f}{bands}{counted.parameters:>9,}"
            f"{counted.multiply_adds / 1e6:>8.0f} M{field:>10}"
        )
    return "\n".join(lines)
