"""The table that grows through the book holds what was measured, and what can be computed."""

import json

import pytest

from deeplab_lesson import create_model, receptive_field
from deeplab_lesson.data import Scenes, bundled
from deeplab_lesson.notebook.running_table import BANDS, SCENE, measured, running_table


def test_a_row_holds_the_measured_scores_and_the_computed_size():
    names = ["fcn32s_mini", "deeplabv3plus_mini"]
    rows = {line.split()[0]: line.split()[1:] for line in running_table(names).splitlines()[2:]}
    assert list(rows) == names
    for name, row in rows.items():
        stored = json.loads(bundled(f"weights/{name}.json").read_text(encoding="utf-8"))["test"]
        assert measured(name) == stored
        scores = [stored["mean_iou"], *(stored["trimap_mean_iou"][str(band)] for band in BANDS)]
        shown = [float(cell) for cell in row[: len(scores)]]
        assert shown == pytest.approx([100 * score for score in scores], abs=0.051)
        model = create_model(name, num_classes=len(Scenes.classes))
        assert int(row[len(scores)].replace(",", "")) == sum(parameter.numel() for parameter in model.parameters())
    field = receptive_field(create_model(names[0], num_classes=len(Scenes.classes)), SCENE).size[0]
    assert rows[names[0]][-1] == f"{field:.0f}"
    assert rows[names[1]][-1] == "all"


def test_the_columns_stand_under_their_heads():
    lines = running_table(["fcn32s_mini"]).splitlines()
    assert len({len(line) for line in lines}) == 1
    for head in ("all", "1", "2", "4", "8", "16", "eters", "adds", "field"):
        assert lines[2][lines[1].index(head) + len(head) - 1] != " "


def test_a_model_without_bundled_weights_is_named():
    with pytest.raises(FileNotFoundError, match=r"weights/fcn8s_giant.json did not come with this version"):
        running_table(["fcn8s_giant"])
