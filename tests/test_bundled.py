"""The small files that come with the package, and the numbers that the texts take from measurements."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplab_lesson.data import Scenes, VOCFolder, bundled
from deeplab_lesson.training import evaluate, load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "book" / "results"


@pytest.mark.parametrize(("split", "length"), [("train", 16), ("val", 8)])
def test_sample_scenes_are_what_scenes_draws(split, length):
    stored, drawn = VOCFolder(bundled("scenes"), split), Scenes(split)
    assert len(stored) == length
    assert tuple(stored.classes) == Scenes.classes
    assert np.array_equal(stored.palette[:11], drawn.palette[:11])
    for index in range(length):
        assert stored.name(index) == drawn.name(index)
        for ours, theirs in zip(stored.read(index), drawn.read(index), strict=True):
            assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "untrained_gets_less"),
    [
        ("deeplabv3plus_mini", 0.4),
        ("fcn32s_mini", 0.2),
        ("fcn16s_mini", 0.3),
        ("fcn8s_mini", 0.3),
        ("unet_mini", 0.4),
        ("segnet_mini", 0.2),
        ("deeplabv1_mini", 0.3),
        ("deeplabv2_mini", 0.3),
        ("deeplabv3_mini", 0.3),
    ],
)
def test_bundled_weights_score_what_their_record_says(name, untrained_gets_less):
    record = json.loads(bundled(f"weights/{name}.json").read_text())
    model, metadata = load_checkpoint(bundled(f"weights/{name}.safetensors"))
    assert metadata["classes"] == list(Scenes.classes)
    assert metadata["step"] == record["steps"]
    test = Scenes("test", length=64)
    assert evaluate(model, test).mean_iou == pytest.approx(record["test"]["mean_iou"], abs=0.06)  # 64 of 512 pictures
    with torch.no_grad():  # and it is the trained one: far better than one without training
        assert evaluate(model, test).mean_iou > untrained_gets_less


def test_bundled_weights_are_small():
    files = [path for path in bundled("weights").iterdir() if path.suffix == ".safetensors"]
    assert max(path.stat().st_size for path in files) <= 5 * 2**20
    assert sum(path.stat().st_size for path in files) <= 25 * 2**20


def test_what_did_not_come_with_the_package_is_said():
    with pytest.raises(FileNotFoundError, match=r"weights/gpt.safetensors did not come with this version"):
        bundled("weights/gpt.safetensors")


@pytest.mark.parametrize("path", sorted([*RESULTS.glob("*.json"), *(ROOT / "data").rglob("*.json")]), ids=str)
def test_every_result_says_how_to_measure_it_again(path):
    record = json.loads(path.read_text())
    assert record["command"].startswith("python -m benchmarks.")
    module = record["command"].split()[2]
    assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
    assert {"commit", "seconds", "device", "threads", "versions"} <= record.keys()


def test_readme_states_the_camvid_result_as_measured():
    """README.md repeats book/results/camvid_cpu.json by hand: every number must be that file's."""
    record = json.loads((RESULTS / "camvid_cpu.json").read_text())
    text = (ROOT / "README.md").read_text()
    rows = dict(re.findall(r"^\| ([\w ]+?) \| ([\d.]+) \|$", text, re.MULTILINE))
    shares = {**record["test"]["iou"], "mean IoU over the 11 classes": record["test"]["mean_iou"]}
    assert rows == {name: f"{100 * share:.1f}" for name, share in shares.items()}
    flowing = " ".join(text.split())
    assert f"{record['seconds'] / 60:.0f} minutes on two cores" in flowing
    assert f"IoU of {100 * record['test']['mean_iou']:.1f} %" in flowing
    assert record["command"] in flowing
    assert record["train"] in flowing
