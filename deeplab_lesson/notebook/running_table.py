"""The table that grows through the book: each chapter's small model beside those before it, on one set of scenes."""

import json
import math
from collections.abc import Sequence

from deeplab_lesson.cost import cost
from deeplab_lesson.data.bundled import bundled
from deeplab_lesson.data.scenes import Scenes
from deeplab_lesson.models.registry import create_model
from deeplab_lesson.receptive_field import receptive_field

SCENE = (128, 128)
BANDS = (1, 2, 4)  # pixels


def running_table(names: Sequence[str]) -> str:
    """Write a row for each of the trained small models.

    mIoU over all pixels and within 1, 2 and 4 pixels of a boundary, percent, of the bundled weights on the 512 test
    scenes, as the command in data/weights/NAME.json measured them; parameters, multiply-adds for one scene of 128x128
    and the receptive field of one output pixel ("all": the whole image), computed here.

    Raises:
        FileNotFoundError: no trained weights of that name are bundled.
    """
    lines = [
        f"{'':22}{'mIoU %, all and within':>26}{'param-':>10}{'multiply-':>11}{'receptive':>11}",
        f"{'model':<22}{'pixels':>8}"
        + "".join(f"{f'{band} px':>6}" for band in BANDS)
        + f"{'eters':>10}{'adds':>11}{'field':>11}",
    ]
    for name in names:
        measured = json.loads(bundled(f"weights/{name}.json").read_text(encoding="utf-8"))["test"]
        model = create_model(name, num_classes=len(Scenes.classes))
        counted = cost(model, SCENE)
        size = receptive_field(model, SCENE).size[0]
        shares = [measured["mean_iou"], *(measured["trimap_mean_iou"][str(band)] for band in BANDS)]
        scores = "".join(f"{100 * share:>{8 if not column else 6}.1f}" for column, share in enumerate(shares))
        field = "all" if math.isinf(size) else f"{size:.0f}"
        lines.append(f"{name:<22}{scores}{counted.parameters:>10,}{counted.multiply_adds / 1e6:>9.1f} M{field:>11}")
    return "\n".join(lines)
