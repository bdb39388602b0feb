"""A checkpoint gives back the same model, explains what is wrong with a bad one, and never runs code."""

import errno
import json
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from deeplab_lesson import create_model
from deeplab_lesson.data import Scenes
from deeplab_lesson.training.checkpoint import (
    BEST,
    LAST,
    STATE,
    find_checkpoint,
    load_checkpoint,
    load_state,
    load_weights,
    read_metadata,
    save_checkpoint,
    save_state,
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return create_model("deeplabv3plus_mini", 5, output_stride=8, separable=True).eval()


def write_header(path: Path, text: str) -> Path:
    path.write_bytes(safetensors.torch.save({"weight": torch.zeros(2)}, {"deeplab_lesson": text}))
    return path


# ---- round trip --------------------------------------------------------------------------------------------


def test_loaded_model_gives_the_same_bits_and_is_in_eval_mode(model, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.safetensors", model, {"classes": list("abcde"), "score": 0.5})
    loaded, metadata = load_checkpoint(tmp_path / "a.safetensors")
    assert not any(part.training for part in loaded.modules())
    assert loaded.spec == model.spec
    assert metadata == {"classes": list("abcde"), "score": 0.5, "model": model.spec}
    images = torch.randn(2, 3, 40, 50)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def test_weights_in_channels_last_order_are_saved_too(model, tmp_path: Path) -> None:
    twin = create_model("deeplabv3plus_mini", 5, output_stride=8, separable=True)
    twin.load_state_dict(model.state_dict())
    save_checkpoint(tmp_path / "a.safetensors", twin.to(memory_format=torch.channels_last), {})
    loaded, _ = load_checkpoint(tmp_path / "a.safetensors")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_pretrained_weights_are_not_fetched_again(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "spec", {**model.spec, "pretrained_backbone": True})
    save_checkpoint(tmp_path / "a.safetensors", model, {})
    load_checkpoint(tmp_path / "a.safetensors")  # the mini trunk refuses pretrained_backbone=True


def test_description_is_read_from_the_header_alone(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors.torch, "load_file", None)
    metadata = read_metadata(checkpoint)
    assert metadata["classes"] == list(Scenes.classes)
    assert metadata["model"]["name"] == "deeplabv3plus_mini"
    assert metadata["step"] == 7
    with open(checkpoint, "rb") as file:  # another program finds it in the same place
        size = int.from_bytes(file.read(8), "little")
        assert json.loads(json.loads(file.read(size))["__metadata__"]["deeplab_lesson"]) == metadata


def test_folder_means_its_best_checkpoint_else_its_last(checkpoint: Path, tmp_path: Path) -> None:
    assert find_checkpoint(checkpoint) == checkpoint
    (tmp_path / LAST).write_bytes(checkpoint.read_bytes())
    assert find_checkpoint(tmp_path) == tmp_path / LAST
    (tmp_path / BEST).write_bytes(checkpoint.read_bytes())
    assert find_checkpoint(str(tmp_path)) == tmp_path / BEST


# ---- bad files ---------------------------------------------------------------------------------------------


def test_empty_folder_and_missing_file_say_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds neither best\.safetensors nor last\.safetensors: give a run"):
        load_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors does not exist: give a run's folder"):
        load_checkpoint(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, 20_000, 0.5, 0.999])
def test_file_cut_off_anywhere_is_called_damaged(checkpoint: Path, tmp_path: Path, keep: float) -> None:
    whole = checkpoint.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole[: int(keep * len(whole)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(ValueError, match=r"cut\.safetensors is no checkpoint of this package.*damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("position", [0, 7, 9, 300])
def test_damaged_header_is_called_damaged(checkpoint: Path, tmp_path: Path, position: int) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[position] ^= 0xFF
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.safetensors.*damaged"):
        load_checkpoint(path)


def test_weights_damaged_behind_a_whole_header_are_called_damaged(model, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(checkpoint.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"bad\.safetensors is damaged.*copy it anew"):
        load_weights(model, path)


def test_safetensors_of_another_program_are_told_apart_from_damaged_ones(tmp_path: Path) -> None:
    for name, metadata in [("a", None), ("b", {"format": "pt"})]:
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(safetensors.torch.save({"weight": torch.zeros(2)}, metadata))
        with pytest.raises(ValueError, match=rf"{name}\.safetensors.*written by another program.*deeplab-lesson train"):
            load_checkpoint(path)


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "3", "null", "{}", '{"model": "unet"}', '{"model": null}'])
def test_description_of_another_shape_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.safetensors is no checkpoint of this package"):
        load_checkpoint(write_header(tmp_path / "a.safetensors", text))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "no model 'None'"),
        ({"name": 3, "num_classes": 2}, "no model '3'"),
        ({"name": "deeplabv9", "num_classes": 2}, "no model 'deeplabv9'"),
        ({"name": "deeplabv3plus_mini", "num_classes": "two"}, "num_classes='two'"),
        ({"name": "deeplabv3plus_mini", "num_classes": 2, "wings": 4}, "no option wings"),
        ({"name": "deeplabv3plus_mini", "num_classes": 2, "output_stride": 7}, "7"),
    ],
)
def test_model_that_cannot_be_built_is_said_with_the_file(spec: dict, message: str, tmp_path: Path) -> None:
    path = write_header(tmp_path / "a.safetensors", json.dumps({"model": spec}))
    with pytest.raises(ValueError, match=rf"a\.safetensors describes the model .*cannot be built.*{message}"):
        load_checkpoint(path)


def test_other_class_count_than_asked_for_is_refused(checkpoint: Path) -> None:
    assert load_checkpoint(checkpoint, num_classes=11)[0].spec["num_classes"] == 11
    with pytest.raises(ValueError, match="for 11 classes, and 21 are asked for"):
        load_checkpoint(checkpoint, num_classes=21)


def test_weights_of_another_class_count_name_the_first_difference(checkpoint: Path) -> None:
    other = create_model("deeplabv3plus_mini", 3)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match=r"of another model.*classifier\.bias \[11\] where the model has \[3\]"):
        load_weights(other, checkpoint)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_weights_of_another_architecture_name_missing_and_extra_parts(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"another model.*It has an extra decoder\.reduce"):
        load_weights(create_model("deeplabv3plus_mini", 11, decoder=False), checkpoint)
    with pytest.raises(ValueError, match=r"another model.*It has no aspp"):
        load_weights(create_model("deeplabv3plus_mini", 11, separable=True), checkpoint)


# ---- the state for resuming --------------------------------------------------------------------------------


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {"step": 3, "settings": {"a": "1"}, "random": torch.get_rng_state(), "list": [1.5, None, "x"]}
    save_state(tmp_path / STATE, state)
    loaded = load_state(tmp_path / STATE)
    assert torch.equal(loaded.pop("random"), state.pop("random"))
    assert loaded == state


class Trap:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["pickle", "torch", "torch legacy"])
def test_malicious_state_is_refused_and_not_executed(form: str, tmp_path: Path) -> None:
    trap = {"step": 1, "settings": {}, "x": Trap(tmp_path / "executed")}
    path = tmp_path / STATE
    if form == "pickle":
        path.write_bytes(pickle.dumps(trap, protocol=2))
    else:
        torch.save(trap, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(ValueError, match=rf"{STATE} cannot be read.*damaged or holds more than numbers.*{LAST}"):
        load_state(path)
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "executed").exists(), "the trap works where nothing holds it back"


def test_missing_state_and_state_of_another_shape_are_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no training to go on with; start without resume"):
        load_state(tmp_path / STATE)
    for content in ([1, 2], {"step": 1}, {"weights": torch.zeros(2)}):
        torch.save(content, tmp_path / STATE)
        with pytest.raises(ValueError, match="no training state of this package"):
            load_state(tmp_path / STATE)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_state_cut_off_anywhere_is_called_damaged(tmp_path: Path, keep: float) -> None:
    save_state(tmp_path / STATE, {"step": 3, "settings": {}, "x": torch.zeros(1000)})
    whole = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(ValueError, match=r"cannot be read.*damaged"):
        load_state(tmp_path / STATE)


# ---- writing -----------------------------------------------------------------------------------------------


def test_full_disk_leaves_the_old_checkpoint_whole(
    model, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / LAST
    path.write_bytes(checkpoint.read_bytes())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for save in (lambda: save_checkpoint(path, model, {}), lambda: save_state(tmp_path / STATE, {"step": 1})):
        with pytest.raises(OSError, match=r"could not be written \(No space left on device"):
            save()
    assert [file.name for file in tmp_path.iterdir()] == [LAST]
    assert path.read_bytes() == checkpoint.read_bytes()


def test_real_write_failure_leaves_the_old_checkpoint_whole(checkpoint: Path, tmp_path: Path) -> None:
    """The kernel refuses files above 1 MB, as it refuses to fill a full disk; the model needs almost 3 MB."""
    path = tmp_path / LAST
    path.write_bytes(checkpoint.read_bytes())
    script = f"""
import resource, signal
from deeplab_lesson import create_model
from deeplab_lesson.training.checkpoint import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, {resource.RLIM_INFINITY}))
save_checkpoint({str(path)!r}, create_model("deeplabv3plus_mini", 11), {{}})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert "could not be written (File too large" in done.stderr
    assert "the file saved before is whole" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == [LAST]
    assert path.read_bytes() == checkpoint.read_bytes()
