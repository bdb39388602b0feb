"""The commands: what they print and write, and one line instead of a trace where something is wrong."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Done, assert_explained
from PIL import Image

from deeplab_lesson import cli, create_model, list_models
from deeplab_lesson.data import CamVid, Scenes, VOCFolder
from deeplab_lesson.data.files import write_atomically
from deeplab_lesson.training.checkpoint import load_checkpoint, read_metadata, save_checkpoint

ROOT = Path(__file__).parents[1]


def subprocess_command(*words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "deeplab_lesson", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


TINY = (
    *("--model", "deeplabv3plus_mini", "--steps", "3", "--batch-size", "2", "--crop", "64", "64", "--limit", "4"),
    *("--device", "cpu", "--no-tensorboard"),
)


# ---- usage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",)])
def test_help_lists_every_command(command, words: tuple[str, ...]) -> None:
    done = command(*words)
    assert done.code == 0
    for name in ("train", "evaluate", "predict", "tune-crf", "benchmark", "models", "receptive-field", "scenes"):
        assert f"  {name} " in done.out


def test_unknown_command_shows_the_usage_as_an_error(command) -> None:
    done = command("segment")
    assert (done.code, done.out) == (2, "")
    assert "usage: deeplab-lesson COMMAND" in done.err
    assert "evaluate" in done.err


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("train", ["--preset", "--data", "--root", "--resume", "--learning-rate", "--no-tensorboard", "--crop"]),
        ("train", ["--losses", "--class-weights", "--label-stride", "--auxiliary-weight", "--optimizer", "--schedule"]),
        ("train", ["--step-every", "--bias-multiplier", "--batch-norm-momentum", "--freeze-batch-norm"]),
        ("evaluate", ["--data", "--root", "--split", "--json", "--batch-size"]),
        ("predict", ["--out", "--device", "INPUTS|STR"]),
        ("scenes", ["--split", "--count", "--size", "--seed"]),
    ],
)
def test_help_of_a_command_names_its_options(command, name: str, options: list[str]) -> None:
    done = command(name, "--help")
    assert done.code == 0
    for option in options:
        assert any(word in done.out for word in option.split("|"))


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate",),
        ("predict",),
        ("scenes",),
        ("scenes", "import", "x"),
        ("scenes", "export", "x", "--count", "many"),
        ("train", "--steps", "many"),
        ("train", "--steps", "0"),
        ("train", "--data", "coco"),
        ("train", "--schedule", "polly"),
        ("train", "--losses", "cross_entropi"),
        ("train", "--speed", "9"),
        ("train", "--preset"),
        ("evaluate", "x", "--data", "coco"),
    ],
)
def test_wrong_options_are_explained_without_a_trace(command, words: tuple[str, ...]) -> None:
    done = command(*words)
    assert (done.code, done.out) == (2, "")
    assert "deeplab-lesson" in done.err
    assert "Traceback" not in done.err


def test_module_is_the_command() -> None:
    done = subprocess_command("models", "*_mini")
    assert (done.returncode, done.stderr) == (0, "")
    parameters = sum(p.numel() for p in create_model("deeplabv3plus_mini").parameters())
    assert ["deeplabv3plus_mini", f"{parameters:,}"] in [line.split() for line in done.stdout.splitlines()]


def test_module_ends_with_2_and_one_line_where_something_is_wrong(tmp_path: Path) -> None:
    done = subprocess_command("evaluate", tmp_path / "gone")
    assert_explained(Done(done.returncode, done.stdout, done.stderr), "gone does not exist")


def test_reader_that_goes_away_is_no_error() -> None:
    script = f"{shlex.quote(sys.executable)} -m deeplab_lesson --help | true; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_models_lists_every_model_by_pattern(command) -> None:
    lines = [line.split() for line in command("models").out.splitlines()[1:]]
    assert [line[0] for line in lines] == list_models()
    assert dict(lines)["deeplabv3plus_resnet50"] == "40,352,181"
    assert len(command("models", "*_mini").out.splitlines()) == 1 + len(list_models("*_mini"))
    assert_explained(command("models", "nix*"), "'nix*'", "deeplabv3plus_mini")


# ---- scenes ------------------------------------------------------------------------------------------------


def test_scenes_export_writes_the_counts_asked_for_and_refuses_to_write_twice(command, tmp_path: Path) -> None:
    options = ("--split", "train", "test", "--count", 3, 1, "--size", 40, 50, "--seed", 5)
    words = ("scenes", "export", "my scenes", *options)
    done = command(*words)
    assert done == Done(0, "4 pictures written in my scenes\n", "")
    folder = tmp_path / "my scenes"
    assert [len(VOCFolder(folder, split)) for split in ("train", "test")] == [3, 1]
    np.testing.assert_array_equal(VOCFolder(folder, "test")[0][0], Scenes("test", (40, 50), seed=5)[0][0])
    before = sorted(folder.rglob("*"))
    assert_explained(command(*words), "is there already", "new folder")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--count", 3), ("2 names", "1 numbers")),
        (("--split", "train", "train"), ("train train", "each split once")),
        (("--size", 20, 40), ("20", "33")),
        (("--count", 0, 1), ("0", "1")),
        (("--seed", -1), ("-1",)),
    ],
)
def test_scenes_export_explains_impossible_wishes(command, tmp_path: Path, words: tuple, parts: tuple) -> None:
    assert_explained(command("scenes", "export", "x", *words), *parts)
    assert list(tmp_path.iterdir()) == []


def test_scenes_export_onto_a_file_is_explained(command, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    assert_explained(command("scenes", "export", "x", "--count", 1, 1), "x/", "a file stands where a folder is needed")
    assert (tmp_path / "x").read_text() == "mine"


# ---- evaluate ----------------------------------------------------------------------------------------------


def test_evaluate_prints_every_score_and_writes_json(
    command, checkpoint: Path, voc_folder: Path, tmp_path: Path
) -> None:
    done = command("evaluate", checkpoint, "--data", "voc", "--root", voc_folder, "--json", "new/scores.json")
    assert (done.code, done.err) == (0, "")
    scores = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert scores["pictures"] == 2
    shown = {line.rsplit(maxsplit=1)[0]: line.rsplit(maxsplit=1)[1] for line in done.out.splitlines()[2:]}
    assert tuple(scores["iou"]) == tuple(Scenes.classes)
    wanted = {**scores["iou"], "mean IoU": scores["mean_iou"], "pixel accuracy": scores["pixel_accuracy"]}
    for name, value in wanted.items():
        assert shown[name] == ("-" if value is None else f"{100 * value:.1f}")
    for width in (1, 2, 4, 8, 16):
        assert f"{width} px {100 * scores['trimap_mean_iou'][str(width)]:.1f}" in done.out
    assert "deeplabv3plus_mini on voc val" in done.out
    assert "nan" not in json.dumps(scores).lower()


def test_folder_and_voc_layout_of_the_same_pictures_get_the_same_scores(
    command, checkpoint: Path, voc_folder: Path, mask_folder: Path
) -> None:
    first = command("evaluate", checkpoint.parent, "--data", "voc", "--root", voc_folder)
    second = command("evaluate", checkpoint.parent, "--data", "folder", "--root", mask_folder)
    assert first.code == second.code == 0
    assert first.out.splitlines()[1:] == second.out.splitlines()[1:]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("{gone}",), ("gone does not exist", "run's folder")),
        (("{voc}",), ("neither best.safetensors nor last.safetensors",)),
        (("{voc}/classes.txt",), ("classes.txt is no checkpoint of this package", "deeplab-lesson train")),
        (("{run}", "--data", "voc"), ("needs a folder", "--root FOLDER")),
        (("{run}", "--data", "voc", "--root", "{gone}"), ("gone is not a folder", "JPEGImages")),
        (("{run}", "--data", "voc", "--root", "{run}"), ("has no folder JPEGImages",)),
        (("{run}", "--data", "voc", "--root", "{voc}", "--split", "dawn"), ("'dawn'", "there are train, val")),
        (("{run}", "--data", "folder", "--root", "{voc}"), ("val/images is not a folder", "train/masks")),
        (("{run}", "--data", "voc2012", "--root", "{voc}"), ("VOCdevkit/VOC2012 is not a folder", "--download")),
        (("{run}", "--split", "dawn"), ("'dawn'", "train, val, test")),
        (("{run}", "--data", "voc", "--root", "{voc}", "--batch-size", "0"), ("batch_size=0", "from 1")),
        (("{run}", "--data", "voc", "--root", "{voc}", "--device", "tpu"), ("'tpu' is not there", "cpu")),
        (("{run}", "--data", "camvid", "--root", "{voc}"), ("trained on the classes background", "has sky")),
    ],
)
def test_evaluate_explains_what_is_wrong(
    command, checkpoint: Path, voc_folder: Path, tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    places = {"run": checkpoint.parent, "voc": voc_folder, "gone": tmp_path / "gone"}
    assert_explained(command("evaluate", *(word.format(**places) for word in words)), *parts)


def test_scores_never_overwrite_weights_or_pictures(command, checkpoint: Path, voc_copy: Path) -> None:
    for path in (checkpoint, next(voc_copy.rglob("*.png")), voc_copy):
        before = path.read_bytes() if path.is_file() else None
        done = command("evaluate", checkpoint, "--data", "voc", "--root", voc_copy, "--json", path)
        assert_explained(done, f"--json {path}", "ends in .json")
        assert done.out == "", "said before the work, not after it"
        assert before is None or path.read_bytes() == before


def test_bad_file_met_by_a_worker_process_is_one_line_too(command, checkpoint: Path, voc_copy: Path) -> None:
    (voc_copy / "JPEGImages" / "val_00001.png").write_text("no picture")
    done = command("evaluate", checkpoint, "--data", "voc", "--root", voc_copy, "--workers", 1)
    assert_explained(done, "deeplab-lesson: ", "val_00001.png cannot be read as a picture", "copy it anew")
    assert "Caught" not in done.err


# ---- predict -----------------------------------------------------------------------------------------------


def test_predict_says_what_it_writes(command, checkpoint: Path, picture: Path, tmp_path: Path) -> None:
    target = tmp_path / "Straße bei Nacht.png"
    picture.rename(target)
    done = command("predict", checkpoint, "*.png", "--out", "new folder")
    assert done == Done(0, f"{target.name} -> new folder/{target.name}\n", "")
    with Image.open(tmp_path / "new folder" / target.name) as written:
        assert (written.mode, written.size) == ("P", (60, 50))


def test_predict_writes_into_predictions_unless_told_otherwise(command, checkpoint: Path, picture: Path) -> None:
    assert command("predict", checkpoint, picture).out.endswith(" -> predictions/picture.png\n")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("{run}",), ("no picture is named",)),
        (("{run}", "gone.png"), ("gone.png names no picture", ".jpg")),
        (("{picture}", "{run}"), ("picture.png is no checkpoint of this package",)),
        (("{run}", "notes.txt"), ("notes.txt cannot be read as a picture",)),
        (("{run}", "zero.png"), ("zero.png cannot be read as a picture",)),
        (("{run}", "small.png"), ("small.png: images are 20x30", "at least 33")),
        (("{run}", "empty"), ("empty names no picture",)),
        (("{run}", "{picture}", "--out", "notes.txt"), ("a file stands where a folder is needed",)),
        (("{run}", "{picture}", "--out", "."), ("picture.png is there already", "--out")),
    ],
)
def test_predict_explains_what_is_wrong(
    command, checkpoint: Path, picture: Path, tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "zero.png").touch()
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    done = command("predict", *(word.format(run=checkpoint.parent, picture=picture) for word in words))
    assert_explained(done, *parts)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_predict_into_a_folder_without_permission_is_explained(
    command, checkpoint: Path, picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = command("predict", checkpoint, picture, "--out", "locked")
    assert_explained(done, "locked/picture_overlay.png could not be written (Permission denied", "another folder")


# ---- what can go wrong anywhere ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (MemoryError("no room"), 2, "out of memory (no room): take smaller batches"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), 2, "out of memory (CUDA out of memory. Tried)"),
        (FileExistsError(17, "File exists", "runs"), 2, "runs: a file stands where a folder is needed"),
        (PermissionError(13, "Permission denied", "a.png"), 2, "[Errno 13] Permission denied: 'a.png'"),
        (OSError(28, "a.png could not be written"), 2, "a.png could not be written"),
        (ValueError("two\nlines"), 2, "two lines"),
    ],
)
def test_errors_become_one_line(command, monkeypatch: pytest.MonkeyPatch, error, code: int, text: str) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "models", fail)
    done = command("models")
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(f"deeplab-lesson: {text}")
    assert done.err.count("\n") == 1


def test_faults_of_our_own_are_not_hidden(command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise KeyError("a bug")

    monkeypatch.setitem(cli.COMMANDS, "models", fail)
    with pytest.raises(KeyError):
        command("models")


# ---- train, evaluate, predict ------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["voc", "folder"])
def test_train_evaluate_and_predict_work_together(command, data: str, request, picture: Path, tmp_path: Path) -> None:
    root = request.getfixturevalue("voc_folder" if data == "voc" else "mask_folder")
    done = command("train", "--data", data, "--root", root, "--out", "run", *TINY)
    assert done.code == 0, done.err
    assert f"On {data} val, after the last step" in done.out
    assert "Saved in run: best.safetensors, last.safetensors" in done.out
    metadata = load_checkpoint(tmp_path / "run")[1]
    assert tuple(metadata["classes"]) == tuple(Scenes.classes)
    assert metadata["step"] == 3

    evaluated = command("evaluate", "run", "--data", data, "--root", root)
    assert evaluated.code == 0, evaluated.err
    table = [line for line in evaluated.out.splitlines() if line.startswith(("mean IoU ", "pixel accuracy"))]
    assert all(line in done.out for line in table), "the same scores as at the end of the training"
    predicted = command("predict", "run", picture, "--out", "out")
    assert predicted.code == 0, predicted.err
    with Image.open(tmp_path / "out" / "picture.png") as written:
        assert set(np.unique(np.array(written))) <= set(range(len(Scenes.classes)))

    assert_explained(command("train", "--data", data, "--root", root, "--out", "run", *TINY), "--resume")


def test_switches_of_the_command_line_are_those_of_the_config(command, voc_folder: Path, tmp_path: Path) -> None:
    words = ("train", "--data", "voc", "--root", voc_folder, *TINY)
    switches = ("--losses", "cross_entropy", "dice=0.5", "--schedule", "cosine", "--label-stride", 8)
    assert command(*words, *switches, "--out", "one").code == 0
    kept = read_metadata(tmp_path / "one")["config"]
    assert (kept["losses"], kept["schedule"], kept["label_stride"]) == (["cross_entropy", "dice=0.5"], "cosine", 8)
    second = ("--start-from", "one", "--freeze-batch-norm", "--output-stride", 8, "--out", "two")
    done = command(*words, *second)
    assert done.code == 0, done.err
    assert_explained(command(*words, "--start-from", "gone", "--out", "three"), "gone does not exist")


def test_misspelled_loss_is_answered_with_the_right_one(command) -> None:
    done = command("train", "--losses", "cross_entropi")
    assert "did you mean 'cross_entropy'" in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--data", "voc"), ("needs a folder", "--root FOLDER")),
        (("--data", "voc", "--root", "gone"), ("gone is not a folder",)),
        (("--data", "voc", "--root", "{voc}", "--val-split", "dawn"), ("'dawn'", "train, val")),
        (("--data", "voc", "--root", "{voc}", "--model", "deeplab"), ("no model 'deeplab'", "did you mean")),
        (("--data", "voc", "--root", "{voc}", "--out", "taken"), ("taken", "a file stands where a folder is needed")),
        (("--data", "voc", "--root", "{voc}", "--resume"), ("no training to go on with",)),
        (("--preset", "tpu"), ("no preset 'tpu'", "cpu and gpu")),
    ],
)
def test_train_explains_what_is_wrong(
    command, voc_folder: Path, tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    (tmp_path / "taken").write_text("mine")
    done = command("train", "--out", "run", *TINY, *(word.format(voc=voc_folder) for word in words))
    assert_explained(done, *parts)
    assert (tmp_path / "taken").read_text() == "mine"
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_setting_that_makes_no_view_is_refused_before_data_is_read(command) -> None:
    done = command("train", "--out", "run", "--data", "voc", "--root", "gone", *TINY, "--flip", "3")
    said = " ".join(done.err.replace("│", " ").split())
    assert done.code == 2
    assert "flip=3.0" in said
    assert "from 0 to 1" in said


def test_bad_label_stops_a_training_with_its_name(command, voc_copy: Path) -> None:
    for path in (voc_copy / "SegmentationClass").glob("train_*.png"):
        Image.new("L", (64, 48), 200).save(path)
    done = command("train", "--data", "voc", "--root", voc_copy, "--out", "run", *TINY)
    assert_explained(done, "SegmentationClass/train_0000", "holds label id 200", "0 to 10 and 255 (void)", started=True)


def test_checkpoint_of_other_classes_is_not_scored_on_these(command, voc_folder: Path, tmp_path: Path) -> None:
    names = [*Scenes.classes[1:], Scenes.classes[0]]  # the same names in another order are other classes
    palette = Scenes.palette[: len(names)].tolist()
    model = create_model("deeplabv3plus_mini", len(names))
    save_checkpoint(tmp_path / "a.safetensors", model, {"classes": names, "palette": palette})
    done = command("evaluate", "a.safetensors", "--data", "voc", "--root", voc_folder)
    assert_explained(done, "same classes in the same order")
    assert len(CamVid.NAMES) == len(names), "a count alone would not tell them apart"


def test_checkpoint_without_class_names_is_explained(command, voc_folder: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.safetensors", create_model("deeplabv3plus_mini", 11), {})
    write_atomically(tmp_path / "b.safetensors", (tmp_path / "a.safetensors").read_bytes()[:-1])
    done = command("evaluate", "a.safetensors", "--data", "voc", "--root", voc_folder)
    assert_explained(done, "names no classes or no colors")
    assert_explained(command("predict", "b.safetensors", voc_folder / "JPEGImages"), "b.safetensors", "damaged")
