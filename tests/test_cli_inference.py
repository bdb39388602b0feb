"""evaluate, predict and tune-crf over scales, with the CRF and with objects: results, files, and errors in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import assert_explained
from PIL import Image

from deeplab_lesson import create_model
from deeplab_lesson.crf import PRESETS
from deeplab_lesson.data import Scenes, VOCFolder
from deeplab_lesson.inference import predict_multiscale, predict_panoptic
from deeplab_lesson.training.checkpoint import load_checkpoint, save_checkpoint
from deeplab_lesson.training.evaluation import evaluate


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Panoptic-DeepLab that finds objects in noise."""
    torch.manual_seed(0)
    model = create_model("panoptic_deeplab_mini", 11)
    with torch.no_grad():
        model.center[-1].bias.fill_(0.2)
    path = tmp_path_factory.mktemp("panoptic") / "best.safetensors"
    save_checkpoint(path, model, {"classes": list(Scenes.classes), "palette": Scenes.palette[:11].tolist()})
    return path


# ---- evaluate ----------------------------------------------------------------------------------------------


def test_evaluate_looks_as_told_and_says_so(command, checkpoint: Path, voc_folder: Path, tmp_path: Path) -> None:
    words = ("evaluate", checkpoint, "--data", "voc", "--root", voc_folder, "--json", "scores.json")
    done = command(*words, "--scales", 0.75, 1, "--flip", "--crf", "krahenbuhl2011")
    assert (done.code, done.err) == (0, "")
    first = "deeplabv3plus_mini on voc val, scales 0.75 1, mirrored too, CRF krahenbuhl2011"
    assert done.out.splitlines()[0] == first
    scores = json.loads((tmp_path / "scores.json").read_text())
    model, dataset = load_checkpoint(checkpoint)[0], VOCFolder(voc_folder, "val")
    expected = evaluate(model, dataset, scales=(0.75, 1), flip=True, crf="krahenbuhl2011")
    assert scores["mean_iou"] == expected.mean_iou
    assert (scores["scales"], scores["flip"]) == ([0.75, 1.0], True)
    assert scores["crf"].items() >= PRESETS["krahenbuhl2011"].items()
    assert command(*words).out.splitlines()[0] == "deeplabv3plus_mini on voc val"
    plain = json.loads((tmp_path / "scores.json").read_text())
    assert (plain["scales"], plain["flip"], plain["crf"]) == ([1.0], False, None)
    assert plain["mean_iou"] == evaluate(model, dataset).mean_iou != expected.mean_iou


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--scales", "0"), ("scales=(0.0,): allowed are one or more finite numbers above 0",)),
        (("--scales", "1", "nan"), ("scales=(1.0, nan)",)),
        (("--scales",), ("scales=(): allowed are one or more",)),
        (("--scales", "0.5", "1"), ("picture val_00000: at scale 0.5 an image of 48x64", "scales below 0.69")),
        (("--crf", "deeplab_v2"), ("'deeplab_v2': did you mean deeplab_v", "krahenbuhl2011", "tune-crf")),
        (("--crf", "gone.json"), ("gone.json does not exist", "tune-crf")),
        (("--crf", "broken.json"), ("broken.json is no JSON file", '{"parameters": ')),
        (("--crf", "three.json"), ("val_00000: compatibility is [3, 3] and there are 11 classes",)),
    ],
)
def test_evaluate_explains_what_is_wrong(
    command, checkpoint: Path, voc_folder: Path, tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    (tmp_path / "broken.json").write_text('{"parameters": ')
    (tmp_path / "three.json").write_text('{"parameters": {"compatibility": [[0, 1, 1], [1, 0, 1], [1, 1, 0]]}}')
    assert_explained(command("evaluate", checkpoint, "--data", "voc", "--root", voc_folder, *words), *parts)


# ---- tune-crf ----------------------------------------------------------------------------------------------

SMALL_GRID = ("--appearance-weight", 0, 2, "--appearance-sigma-xy", 8, "--appearance-sigma-rgb", 13, "--rounds", 1)


def test_what_tune_crf_writes_serves_evaluate_and_predict(
    command, checkpoint: Path, voc_folder: Path, picture: Path, tmp_path: Path
) -> None:
    data = ("--data", "voc", "--root", voc_folder)
    done = command("tune-crf", checkpoint, *data, "--scales", 1, 1.25, *SMALL_GRID, "--out", "new/crf.json")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "deeplabv3plus_mini on 2 pictures of voc val, scales 1 1.25"
    assert lines[1].split()[:2] == ["appearance_weight", "appearance_sigma_xy"]
    shares = [float(line.split()[-1]) for line in lines[2:4]]
    assert shares == sorted(shares, reverse=True)
    assert lines[4].startswith(f"best of 2: {shares[0]}; without the CRF ")
    assert lines[-1] == "new/crf.json written, for --crf new/crf.json"
    content = json.loads((tmp_path / "new" / "crf.json").read_text())
    assert 100 * content["mean_iou"] == pytest.approx(shares[0], abs=0.06)
    assert content["parameters"]["appearance_sigma_xy"] == 8
    assert (content["pictures"], content["split"], content["scales"]) == (2, "val", [1.0, 1.25])

    scored = command("evaluate", checkpoint, *data, "--scales", 1, 1.25, "--crf", "new/crf.json")
    row = next(line for line in scored.out.splitlines() if line.startswith("mean IoU "))
    assert float(row.split()[-1]) == pytest.approx(shares[0], abs=0.11)
    assert command("predict", checkpoint, picture, "--crf", "new/crf.json", "--out", "out").code == 0
    labels = predict_multiscale(
        load_checkpoint(checkpoint)[0], np.array(Image.open(picture)), (1,), False, crf="new/crf.json"
    )
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "out" / "picture.png")), labels)


def test_tune_crf_says_where_the_crf_does_not_help(command, checkpoint: Path, voc_folder: Path) -> None:
    words = ("--appearance-weight", 0, "--smoothness-weight", 0, "--rounds", 1, "--count", 1)
    done = command("tune-crf", checkpoint, "--data", "voc", "--root", voc_folder, *words)
    assert "on 1 pictures of voc val" in done.out
    assert "the CRF helps nowhere in this grid" in done.out


def test_help_of_tune_crf_names_its_options_and_warns_of_optimism(command) -> None:
    done = command("tune-crf", "--help")
    assert done.code == 0
    for word in ("--count", "--out", "--rounds", "--appearance-sigma-xy", "another", "optimistic"):
        assert word in done.out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--out", "crf.txt"), ("--out crf.txt: allowed is a file name that ends in .json",)),
        (("--count", "0"), ("count=0: allowed are whole numbers of pictures from 1",)),
        (("--rounds", "0"), ("rounds=0", "allowed are whole numbers from 1")),
        (("--appearance-sigma-rgb", "-3"), ("appearance_sigma_rgb=-3.0: allowed are finite numbers above 0",)),
        (("--scales", "inf"), ("scales=(inf,)",)),
        (("--split", "dawn"), ("'dawn'", "there are train, val")),
    ],
)
def test_tune_crf_explains_what_is_wrong_and_writes_nothing(
    command, checkpoint: Path, voc_folder: Path, tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    assert_explained(command("tune-crf", checkpoint, "--data", "voc", "--root", voc_folder, *words), *parts)
    assert list(tmp_path.iterdir()) == []


# ---- predict -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "looks"),
    [
        (("--scales", 0.75, 1.5), {"scales": (0.75, 1.5), "flip": False}),
        (("--flip",), {"scales": (1,), "flip": True}),
        (("--scales", 1, "--crf", "deeplab_v1"), {"scales": (1,), "flip": False, "crf": "deeplab_v1"}),
    ],
)
def test_predict_looks_as_told(command, checkpoint: Path, picture: Path, tmp_path: Path, words, looks) -> None:
    done = command("predict", checkpoint, picture, *words)
    assert (done.code, done.out, done.err) == (0, f"{picture} -> predictions/picture.png\n", "")
    expected = predict_multiscale(load_checkpoint(checkpoint)[0], np.array(Image.open(picture)), **looks)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "predictions" / "picture.png")), expected)


def test_predict_panoptic_writes_classes_numbers_and_an_overlay(
    command, panoptic: Path, picture: Path, tmp_path: Path
) -> None:
    done = command("predict", panoptic, picture, "--panoptic", "--out", "out")
    assert (done.code, done.out, done.err) == (0, f"{picture} -> out/picture.png\n", "")
    names = ["picture.png", "picture_instances.png", "picture_overlay.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    semantic, instances = predict_panoptic(load_checkpoint(panoptic)[0], np.array(Image.open(picture)))
    assert instances.max() > 1
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "out" / names[0])), semantic)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "out" / names[1])), instances)


def test_panoptic_model_predicts_classes_alone_too(command, panoptic: Path, picture: Path, tmp_path: Path) -> None:
    assert command("predict", panoptic, picture, "--scales", 1, 1.25, "--crf", "deeplab_v1").code == 0
    assert len(list((tmp_path / "predictions").iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("{run}", "{picture}", "--panoptic"), ("deeplabv3plus_mini", "no objects apart", "panoptic_deeplab_mini")),
        (("{panoptic}", "{picture}", "--panoptic", "--flip"), ("--panoptic takes one look", "leave out --scales")),
        (("{panoptic}", "{picture}", "--panoptic", "--crf", "deeplab_v1"), ("--panoptic takes one look",)),
        (("{picture}", "--panoptic", "--weights", "torchvision"), ("--panoptic takes one look", "--weights")),
        (("{panoptic}", "--panoptic"), ("no picture is named",)),
        (("{run}", "{picture}", "--scales", "0.5"), ("picture.png: at scale 0.5 an image of 50x60",)),
        (("{run}", "{picture}", "--scales", "-1"), ("scales=(-1.0,): allowed are",)),
        (("{run}", "{picture}", "--crf", "krahenbuhl"), ("did you mean krahenbuhl2011?",)),
        (("{run}", "{picture}", "--crf", "."), ("there are no CRF parameters '.'",)),
    ],
)
def test_predict_explains_what_is_wrong_and_writes_nothing(
    command, checkpoint: Path, panoptic: Path, picture: Path, tmp_path: Path, words: tuple[str, ...], parts
) -> None:
    places = {"run": checkpoint, "panoptic": panoptic, "picture": picture}
    assert_explained(command("predict", *(word.format(**places) for word in words)), *parts)
    assert list(tmp_path.iterdir()) == [picture]


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_help_names_the_presets_and_tune_crf(command, name: str) -> None:
    text = " ".join(command(name, "--help").out.replace("│", " ").split())
    for word in ("--scales", "--flip", "--crf", "tune-crf", *PRESETS):
        assert word in text
    assert ("--panoptic" in text) == (name == "predict")
