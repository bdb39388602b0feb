"""Real pictures: CamVid, where DEEPLAB_CAMVID names its folder (it may not be redistributed)."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplab_lesson.data import VOID, CamVid, VOCFolder
from deeplab_lesson.data.files import read_label
from deeplab_lesson.metrics import ConfusionMatrix

FOLDER = Path(os.environ.get("DEEPLAB_CAMVID", "/nowhere"))
pytestmark = [
    pytest.mark.camvid,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="DEEPLAB_CAMVID names no folder"),
]


def labels(dataset: CamVid) -> torch.Tensor:
    read = [read_label(path, dataset.classes, dataset.palette) for _, path in dataset.pairs]
    return torch.from_numpy(np.stack(read)).long()


def test_splits_are_those_of_segnet_and_disjoint():
    splits = {split: CamVid(FOLDER, split) for split in ("train", "val", "test")}
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 367, "val": 101, "test": 233}
    names = [dataset.name(i) for dataset in splits.values() for i in range(len(dataset))]
    assert len(set(names)) == 701


def test_named_classes_are_those_of_the_folder():
    named, plain = CamVid(FOLDER, "val"), VOCFolder(FOLDER, "val")  # the second reads the folder's classes.txt
    assert len(named.classes) == len(plain.classes) == 11
    assert np.array_equal(named.palette[:11], plain.palette[:11])
    for ours, theirs in zip(named.classes, plain.classes, strict=True):
        assert ours in theirs.lower()
    image, label = named.read(0)
    assert image.shape == (360, 480, 3)
    assert label.shape == (360, 480)


def test_position_prior_scores_what_the_folder_s_notes_say():
    """17.0 mIoU from no picture at all: the training labels' majority at each pixel, on the test labels."""
    train, test = labels(CamVid(FOLDER, "train")), labels(CamVid(FOLDER, "test"))
    counts = torch.stack([(train == class_id).sum(dim=0) for class_id in range(11)])
    matrix = ConfusionMatrix(11)
    matrix.update(counts.argmax(dim=0).expand_as(test), test)
    assert 100 * matrix.mean_iou == pytest.approx(17.0, abs=0.05)
    shares = json.loads((FOLDER / "stats.json").read_text())["train"]
    assert (train == VOID).float().mean().item() == pytest.approx(shares["void"], abs=1e-4)


@pytest.mark.slow
def test_command_of_the_readme_reaches_38_percent_within_15_minutes(tmp_path):
    run = [sys.executable, "-m", "deeplab_lesson"]
    data = ["--data", "camvid", "--root", str(FOLDER)]
    start = time.monotonic()
    subprocess.run([*run, "train", *data, "--preset", "cpu", "--out", str(tmp_path)], check=True)
    assert time.monotonic() - start < 15 * 60
    command = [*run, "evaluate", str(tmp_path / "last.safetensors"), *data, "--split", "test"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"mean IoU +([\d.]+)", text)
    assert found is not None, text
    assert float(found.group(1)) >= 38
