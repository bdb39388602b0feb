"""Nothing is lost: death at every point of a save, full disks, clocks that stand, other versions, data that goes."""

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from short_training import short_config, short_training

from deeplab_lesson.data import VOCFolder
from deeplab_lesson.training import TrainConfig, load_checkpoint, report, save_checkpoint, train
from deeplab_lesson.training.checkpoint import BEST, LAST, STATE, load_state, save_state
from deeplab_lesson.training.records import versions

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = {"steps": 6, "batch_size": 2, "save_every": 2, "evaluate_every": 3}
# The renames of that run up to step 4: at step 2 LAST and STATE, at 3 BEST, LAST and STATE, at 4 LAST and STATE.
RENAMES = 7


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return short_training(tmp_path_factory.mktemp("runs") / "undisturbed", **SETTINGS).out


def assert_same_end(out: Path, reference: Path) -> None:
    got, want = load_state(out / STATE), load_state(reference / STATE)
    assert got["step"] == want["step"] == SETTINGS["steps"]
    for part in ("random_state", "best_mean_iou", "evaluation"):
        assert got[part] == want[part] if part != "random_state" else torch.equal(got[part], want[part])
    assert all(torch.equal(got["model"][name], tensor) for name, tensor in want["model"].items())
    for key, slot in want["optimizer"]["state"].items():
        assert torch.equal(got["optimizer"]["state"][key]["momentum_buffer"], slot["momentum_buffer"])
    for name in (BEST, LAST):
        ours, theirs = (safetensors.torch.load_file(folder / name) for folder in (out, reference))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not list(out.glob("*.part"))


# death in the middle of a save ------------------------------------------------------------------------------------


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(out: Path, moment: str, number: int) -> None:
    """Be killed at one rename: with the temporary file half written, or whole, or just after it got its name."""
    rename, sync, done = os.replace, os.fsync, []

    def replace(old: str, new: str) -> None:
        done.append(new)
        if moment == "before" and len(done) == number:
            die()
        rename(old, new)
        if moment == "after" and len(done) == number:
            die()

    def fsync(descriptor: int) -> None:
        if moment == "torn" and len(done) + 1 == number:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            die()
        sync(descriptor)

    os.replace, os.fsync = replace, fsync
    short_training(out, **SETTINGS)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.parametrize(
    "number",
    [
        number if number in (3, 4, 5) else pytest.param(number, marks=pytest.mark.slow)
        for number in range(1, RENAMES + 1)
    ],
)
@pytest.mark.parametrize("moment", ["torn", "before", "after"])
def test_death_at_any_point_of_a_save_changes_nothing(tmp_path, undisturbed, moment, number):
    out = tmp_path / "run"
    process = multiprocessing.get_context("fork").Process(target=train_and_die, args=(out, moment, number))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    parts = [path.name for path in out.glob("*.part")]
    assert len(parts) == (moment != "after"), "it died where it should"
    for name in (BEST, LAST):
        if (out / name).exists():
            load_checkpoint(out / name)
    resumable = (out / STATE).exists()
    assert resumable == (number > 2 or (number == 2 and moment == "after"))
    assert short_training(out, **SETTINGS, resume=resumable).finished
    assert_same_end(out, undisturbed)


# disk and clock ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [3, 4, 5])
def test_disk_that_fills_up_in_a_save_leaves_a_run_that_goes_on_to_the_same_bits(
    tmp_path, undisturbed, monkeypatch, number
):
    sync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device.*the file saved before is whole|nothing was saved"):
            short_training(tmp_path, **SETTINGS)
    assert not list(tmp_path.glob("*.part"))
    load_checkpoint(tmp_path / LAST)
    assert short_training(tmp_path, **SETTINGS, resume=True).finished
    assert_same_end(tmp_path, undisturbed)


def test_disk_that_fills_up_in_the_metrics_is_named_and_the_run_goes_on(tmp_path, undisturbed, monkeypatch):
    class Full:
        def __init__(self, file, lines):
            self.file, self.left = file, lines

        def write(self, text):
            self.left -= 1
            self.file.write(text if self.left > 0 else text[:9])

        def flush(self):
            self.file.flush()
            if self.left <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            self.file.close()
            raise OSError(errno.ENOSPC, "No space left on device")

    real = report.Reporter.__init__

    def init(self, *args, **options):
        real(self, *args, **options)
        self.file = Full(self.file, 3)

    with monkeypatch.context() as patch:
        patch.setattr(report.Reporter, "__init__", init)
        with pytest.raises(OSError, match=r"metrics\.jsonl could not be written \(No space left on device\).*resume"):
            short_training(tmp_path, **SETTINGS, log_every=1)
    assert short_training(tmp_path, **SETTINGS, resume=True).finished
    assert_same_end(tmp_path, undisturbed)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("clock", [lambda: 5.0, lambda start=[1e9]: start.append(start[-1] - 60) or start[-1]])
def test_clock_that_stands_or_runs_backward_harms_no_training(tmp_path, undisturbed, monkeypatch, clock):
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr(time, "time", clock)
    short_training(tmp_path, **SETTINGS)
    assert_same_end(tmp_path, undisturbed)
    speeds = [line["images_per_second"] for line in map(json.loads, (tmp_path / "metrics.jsonl").open())
              if "loss" in line]  # fmt: skip
    assert set(speeds) == {0.0}, "no speed is better than a wrong one"


# other versions ---------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path) -> Path:
    short_training(tmp_path, steps=2)
    return tmp_path


def change_state(out: Path, **changes) -> None:
    state = load_state(out / STATE)
    for name, value in changes.items():
        if value is None:
            del state[name]
        else:
            state[name] = {**state[name], **value} if isinstance(value, dict) else value
    save_state(out / STATE, state)


def test_state_tells_which_versions_saved_it(saved):
    assert load_state(saved / STATE)["versions"] == versions()
    assert load_checkpoint(saved / LAST)[1]["versions"] == versions()
    assert {"deeplab_lesson", "torch", "python", "numpy"} == versions().keys()


def test_state_of_a_newer_version_with_settings_unknown_here_is_refused_by_name(saved):
    change_state(saved, settings={"wings": "4"}, versions={"deeplab_lesson": "9.1"})
    with pytest.raises(
        ValueError, match=r"saved by deeplab_lesson 9\.1 and has settings .* not know: wings=4.*this is"
    ):
        short_training(saved, steps=2, resume=True)


def test_state_that_lacks_a_part_is_refused_by_its_name(saved):
    change_state(saved, optimizer=None, scored_step=None)
    with pytest.raises(ValueError, match=r"saved by deeplab_lesson .* and lacks scored_step, optimizer; this is"):
        short_training(saved, steps=2, resume=True)


def test_state_from_before_versions_were_noted_goes_on(saved):
    change_state(saved, versions=None)
    assert short_training(saved, steps=2, resume=True).finished


def test_other_pytorch_is_remarked_on(saved):
    change_state(saved, versions={"torch": "1.0"})
    with pytest.warns(UserWarning, match=r"saved with PyTorch 1\.0, and this is .*last digits"):
        assert short_training(saved, steps=2, resume=True).finished


def test_checkpoint_with_options_unknown_here_names_both_versions(saved, monkeypatch):
    model, metadata = load_checkpoint(saved / LAST)
    model.spec = {**model.spec, "wings": 4}
    save_checkpoint(saved / "new.safetensors", model, {**metadata, "versions": {"deeplab_lesson": "9.1"}})
    with pytest.raises(ValueError, match=r"no option wings.*newer or older \(deeplab_lesson 9\.1; this is "):
        load_checkpoint(saved / "new.safetensors")


# data that changes ------------------------------------------------------------------------------------------------


def voc_config(out: Path, **changes) -> TrainConfig:
    return short_config(out, **{"steps": 8, "save_every": 1, "evaluate_every": 4, "batch_size": 2, **changes})


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (Path.unlink, FileNotFoundError, r"does not exist"),
        (lambda path: os.truncate(path, 100), ValueError, r"cannot be read as a picture"),
    ],
)
def test_file_that_vanishes_or_shrinks_is_named_and_the_run_goes_on(
    tmp_path, voc_copy, monkeypatch, workers, damage, kind, message
):
    sets = {"train_set": VOCFolder(voc_copy, "train"), "val_set": VOCFolder(voc_copy, "val")}
    out, content = tmp_path / "run", {}
    real = report.Reporter.tick

    def tick(self):
        real(self)
        if not content and (out / STATE).exists():
            for path, _ in sets["train_set"].pairs:
                content[path] = path.read_bytes()
                damage(path)

    with monkeypatch.context() as patch:
        patch.setattr(report.Reporter, "tick", tick)
        with pytest.raises(kind, match=rf"JPEGImages/\S+ {message}.*is whole: put the data right and go on") as caught:
            train(voc_config(out, steps=12, workers=workers), **sets)
    assert "Traceback" not in str(caught.value)
    for path, saved_content in content.items():
        path.write_bytes(saved_content)
    assert train(voc_config(out, steps=12, workers=workers, resume=True), **sets).finished


def test_label_of_the_validation_that_vanishes_is_named_too(tmp_path, voc_copy):
    sets = {"train_set": VOCFolder(voc_copy, "train"), "val_set": VOCFolder(voc_copy, "val")}
    sets["val_set"].pairs[0][1].unlink()
    with pytest.raises(FileNotFoundError, match=r"SegmentationClass/\S+ does not exist.*is whole: put the data right"):
        train(voc_config(tmp_path / "run"), **sets)
    with pytest.raises(FileNotFoundError, match="Nothing had been saved yet: put the data right and start again"):
        train(voc_config(tmp_path / "first", evaluate_every=1, save_every=9), **sets)


def test_errors_of_the_step_itself_are_not_taken_for_errors_of_the_data(tmp_path):
    with pytest.raises(ValueError, match="this batch has one image") as caught:
        short_training(tmp_path, batch_size=1)
    assert "put the data right" not in str(caught.value)
