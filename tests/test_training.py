"""Training: it learns, it can be stopped, killed and resumed without changing a bit, and it refuses nonsense."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from short_training import STEPS, short_config, short_sets, short_training
from torch import nn

from deeplab_lesson import create_model
from deeplab_lesson.data import Scenes, SegmentationDataset, TrainTransform
from deeplab_lesson.training import (
    StepLoss,
    TrainConfig,
    Trainer,
    evaluate,
    load_checkpoint,
    parameter_groups,
    poly_schedule,
    preset_config,
    train,
)  # fmt: skip
from deeplab_lesson.training.checkpoint import load_state
from deeplab_lesson.training.hardware import choose_device, choose_precision
from deeplab_lesson.training.loader import BatchStream, RandomViews
from deeplab_lesson.training.presets import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run that nothing interrupts: what every other way to the end must reach."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    return short_training(out)


def final_state(out: Path) -> dict:
    return load_state(out / "resume.pt")


def assert_same_end(out: Path, reference: Path) -> None:
    """Weights, momentum, BatchNorm buffers, random state, best score, metrics: all equal, bit for bit."""
    got, want = final_state(out), final_state(reference)
    assert got["step"] == want["step"] == STEPS
    for name, tensor in want["model"].items():
        assert torch.equal(got["model"][name], tensor), name
    for key, slot in want["optimizer"]["state"].items():
        assert torch.equal(got["optimizer"]["state"][key]["momentum_buffer"], slot["momentum_buffer"]), key
    assert torch.equal(got["random_state"], want["random_state"])
    assert got["best_mean_iou"] == want["best_mean_iou"]
    assert got["evaluation"] == want["evaluation"]
    for name in ("best.safetensors", "last.safetensors"):
        ours, theirs = (safetensors.torch.load_file(folder / name) for folder in (out, reference))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    assert records(out) == records(reference)
    assert not list(out.glob("*.part"))


def records(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("images_per_second", "loss")} for line in lines]


# it learns ------------------------------------------------------------------------------------------------------


def test_loss_falls_on_pictures_seen_again_and_again(tmp_path):
    one = Scenes("train", (64, 64), length=2)
    config = short_config(tmp_path, steps=60, batch_size=2, crop=(64, 64), scale=(1.0, 1.0), flip=0.0,
                          learning_rate=0.1, evaluate_every=60)  # fmt: skip
    result = train(config, train_set=one, val_set=one)
    losses = [line["loss"] for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
              if "loss" in line]  # fmt: skip
    assert losses[-1] < 0.5 * losses[0]
    assert result.evaluation.pixel_accuracy > 0.6
    assert not result.model.training


def test_run_leaves_weights_that_score_what_the_metrics_say(undisturbed):
    val = short_sets()["val_set"]
    model, metadata = load_checkpoint(undisturbed.out / "last.safetensors")
    assert evaluate(model, val).to_json() == undisturbed.evaluation.to_json()
    assert metadata["classes"] == list(val.classes)
    assert metadata["metrics"]["mean_iou"] == undisturbed.evaluation.mean_iou
    assert metadata["step"] == STEPS
    assert metadata["config"]["batch_size"] == 3
    scores = [line["mean_iou"] for line in records(undisturbed.out) if "mean_iou" in line]
    best, _ = load_checkpoint(undisturbed.out)
    assert evaluate(best, val).mean_iou == max(scores)


def test_logged_learning_rate_follows_the_poly_schedule(undisturbed):
    for line in records(undisturbed.out):
        if "learning_rate" in line:
            assert line["learning_rate"] == pytest.approx(0.05 * (1 - (line["step"] - 1) / STEPS) ** 0.9)


# resuming -------------------------------------------------------------------------------------------------------


def start(out: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, str(Path(__file__).with_name("short_training.py")), str(out), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill_and_resume(out: Path, kills: int, seed: int) -> int:
    """Kill a run at random moments until it has died so often; then let it end. Returns the deaths."""
    draw, deaths, words = random.Random(seed), 0, []
    while True:
        process = start(out, *words)
        if deaths < kills:
            wait_for(out / "resume.pt", process)
            time.sleep(draw.uniform(0, 1.2) if not words else draw.uniform(2.0, 4.5))  # start-up takes seconds
            process.kill()
        text, _ = process.communicate()
        if process.returncode == 0:
            assert "finished" in text
            return deaths
        assert process.returncode == -signal.SIGKILL, text
        deaths += 1
        words = ["resume"]


def test_killed_training_resumed_ends_with_the_same_bits(tmp_path, undisturbed):
    assert kill_and_resume(tmp_path / "run", kills=2, seed=int(os.environ.get("DEEPLAB_SEED", "0"))) >= 1
    assert_same_end(tmp_path / "run", undisturbed.out)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_killed_at_many_random_moments(tmp_path, undisturbed, seed, record_property):
    kills = kill_and_resume(tmp_path / "run", kills=5, seed=seed)
    record_property("kills", kills)  # pytest --junitxml=FILE counts them
    assert kills >= 1
    assert_same_end(tmp_path / "run", undisturbed.out)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_the_step_reached_and_the_rest_gives_the_same_bits(tmp_path, undisturbed, kind):
    out = tmp_path / "run"
    process = start(out)
    wait_for(out / "resume.pt", process)
    process.send_signal(kind)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert f"stopped by {kind.name} at step" in text
    assert "not finished" in text
    assert 0 < final_state(out)["step"] < STEPS
    text, _ = start(out, "resume").communicate(timeout=120)
    assert "finished" in text
    assert_same_end(out, undisturbed.out)


@pytest.mark.parametrize("stop_at", [1, 8, 17])
def test_stopping_at_any_step_changes_nothing(tmp_path, undisturbed, stop_at, monkeypatch):
    """In one process; step 8 stops inside an evaluation."""
    out = tmp_path / "run"
    first = Trainer(short_config(out), **short_sets())
    update = first._update

    def update_then_stop(images, labels):
        loss = update(images, labels)
        if first.step + 1 == stop_at:
            first.stop.signal = signal.SIGTERM
        return loss

    monkeypatch.setattr(first, "_update", update_then_stop)
    assert not first.run().finished
    assert final_state(out)["step"] == stop_at
    torch.manual_seed(999)  # whatever happened in between must not matter
    assert short_training(out, resume=True, workers=1, log_every=2).finished
    assert_same_end(out, undisturbed.out)


def test_finished_training_resumed_does_nothing(tmp_path):
    short_training(tmp_path, steps=4)
    before = (tmp_path / "last.safetensors").read_bytes()
    result = short_training(tmp_path, steps=4, resume=True)
    assert result.finished
    assert result.evaluation is not None
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_workers_and_cache_do_not_change_the_training(tmp_path, undisturbed):
    short_training(tmp_path, workers=2, cache=True)
    assert_same_end(tmp_path, undisturbed.out)


def test_another_seed_is_another_training(tmp_path, undisturbed):
    result = short_training(tmp_path, seed=1)
    ours, theirs = result.model.state_dict(), undisturbed.model.state_dict()
    assert not torch.equal(ours["classifier.weight"], theirs["classifier.weight"])


def test_metrics_cut_by_a_kill_are_mended(tmp_path, undisturbed):
    out = tmp_path / "run"
    short_training(out)
    (out / "metrics.jsonl").open("a").write('{"step": 24, "loss": 0.')
    short_training(out, resume=True)
    assert records(out) == records(undisturbed.out)


# order and views of the pictures --------------------------------------------------------------------------------


def test_every_epoch_holds_every_picture_once_in_a_new_order():
    views = [view for batch in BatchStream(10, 4, seed=3, first_step=0, last_step=10) for view in batch]
    epochs = [[index for epoch, index in views if epoch == number] for number in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("first", [0, 1, 7, 23])
def test_stream_of_batches_can_start_anywhere(first):
    whole = list(BatchStream(7, 3, seed=5, first_step=0, last_step=30))
    stream = BatchStream(7, 3, seed=5, first_step=first, last_step=30)
    assert list(stream) == whole[first:]
    assert len(stream) == len(whole[first:])


def test_views_of_one_picture_differ_between_epochs_and_repeat_with_the_seed():
    views = RandomViews(Scenes("train", (64, 64), length=2), TrainTransform((48, 48)), seed=1)
    torch.testing.assert_close(views[0, 1], views[0, 1])
    assert not torch.equal(views[0, 1][0], views[1, 1][0])
    other = RandomViews(Scenes("train", (64, 64), length=2), TrainTransform((48, 48)), seed=2)
    assert not torch.equal(views[0, 1][0], other[0, 1][0])


# optimizer ------------------------------------------------------------------------------------------------------


def test_decay_falls_on_convolution_weights_only_and_the_head_has_its_own_rate():
    model = create_model("deeplabv3plus_mini", 5)
    groups = {group["name"]: group for group in parameter_groups(model, 0.1, 1e-4, head_multiplier=10)}
    assert set(groups) == {"trunk weights", "trunk biases and norms", "head weights", "head biases and norms"}
    trunk = {id(p) for p in model.backbone.parameters()}
    for name, group in groups.items():
        for parameter in group["params"]:
            assert (id(parameter) in trunk) == name.startswith("trunk")
            assert (parameter.ndim > 1) == name.endswith("weights")
        assert group["lr"] == pytest.approx(1.0 if name.startswith("head") else 0.1)
        assert group["weight_decay"] == (1e-4 if name.endswith("weights") else 0)
    assert sum(len(group["params"]) for group in groups.values()) == len(list(model.parameters()))
    norms = [p for layer in model.modules() if isinstance(layer, nn.BatchNorm2d) for p in layer.parameters()]
    decayed = {id(p) for name in ("trunk weights", "head weights") for p in groups[name]["params"]}
    assert not any(id(p) in decayed for p in norms)


def test_poly_schedule_is_the_papers():
    schedule = poly_schedule(1000)
    assert [schedule(step) for step in (0, 500, 900, 1000)] == pytest.approx([1, 0.5**0.9, 0.1**0.9, 0])
    warm = poly_schedule(1000, warmup_steps=10)
    assert warm(0) == pytest.approx(0.1)
    assert warm(500) == schedule(500)
    with pytest.raises(ValueError, match=r"total_steps=5, warmup_steps=5.*fewer warm-up steps"):
        poly_schedule(5, warmup_steps=5)


def test_large_gradients_are_clipped_to_the_norm(tmp_path, monkeypatch):
    run = Trainer(short_config(tmp_path, clip_norm=1e-3), **short_sets())
    seen = []
    monkeypatch.setattr(run.update.scaler, "step", lambda optimizer: seen.append(gradient_norm(run.model)))
    run._update(torch.randn(2, 3, 48, 48), torch.randint(0, 11, (2, 48, 48)))
    assert seen[0] == pytest.approx(1e-3, rel=1e-3)


def gradient_norm(model: nn.Module) -> float:
    return torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()


# precision and device -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((7, 0), torch.float16)],
)
def test_auto_precision_follows_what_the_gpu_has_natively(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device("cuda")) is expected


def test_auto_precision_on_a_cpu_is_float32():
    assert choose_precision("auto", torch.device("cpu")) is torch.float32


@pytest.mark.parametrize(
    ("precision", "message"), [("float16", "needs a GPU"), ("half", "allowed are auto, float32, bfloat16, float16")]
)
def test_impossible_precision_is_refused(precision, message):
    with pytest.raises(ValueError, match=message):
        choose_precision(precision, torch.device("cpu"))


@pytest.mark.parametrize("name", ["tpu", "cpu:x", "cpu:1", "cuda:99", ""])
def test_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=rf"device='{name}' is not there: this machine has .*cpu"):
        choose_device(name)


def test_bfloat16_training_ends_near_float32(tmp_path, undisturbed):
    result = short_training(tmp_path, precision="bfloat16")
    losses = [[line["loss"] for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
               if "loss" in line] for out in (tmp_path, undisturbed.out)]  # fmt: skip
    assert result.finished
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
    assert losses[0] != losses[1]


def test_terminal_shows_a_bar_with_loss_speed_and_time_left(tmp_path):
    pty = pytest.importorskip("pty", reason="needs a POSIX terminal")
    termios = pytest.importorskip("termios", reason="needs a POSIX terminal")
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 120))
    script = str(Path(__file__).with_name("short_training.py"))
    process = subprocess.Popen([sys.executable, script, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=follower)
    os.close(follower)
    text = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        text += part
    assert process.wait() == 0
    bar = text.decode()
    assert re.search(r"24/24 \[\d\d:\d\d<\d\d:\d\d", bar), "steps done, time passed, time left"
    assert re.search(r"loss=\d\.\d+", bar)
    assert re.search(r"lr=[\d.e-]+", bar)
    assert re.search(r"images_s=\d+", bar)


def test_page_being_built_shows_no_bar(tmp_path, capsys):
    short_training(tmp_path, steps=2)
    assert capsys.readouterr().err == ""


def test_choice_of_precision_is_printed(tmp_path, capsys):
    short_training(tmp_path, steps=2)
    assert "deeplabv3plus_mini, 11 classes, 10 pictures, cpu, float32, step 0 of 2" in capsys.readouterr().out


def test_deterministic_setting_reaches_torch(tmp_path):
    try:
        short_training(tmp_path, steps=2, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_tensorboard_files_are_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    short_training(tmp_path, steps=4, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss", "learning_rate", "mean_iou"} <= set(events.Tags()["scalars"])


def test_training_goes_on_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert short_training(tmp_path, steps=2, tensorboard=True).finished


# bad input ------------------------------------------------------------------------------------------------------


def test_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    real, steps = StepLoss.__call__, []

    def poisoned(self, heads, labels, instances=None):
        steps.append(1)
        return real(self, heads, labels) * (math.nan if len(steps) == 8 else 1.0)

    monkeypatch.setattr(StepLoss, "__call__", poisoned)
    with pytest.raises(ValueError, match=r"not finite at step 8; the checkpoint from before is whole.*learning_rate"):
        short_training(tmp_path, log_every=20)
    assert final_state(tmp_path)["step"] == 6
    for tensor in safetensors.torch.load_file(tmp_path / "last.safetensors").values():
        assert tensor.isfinite().all()


def test_gradient_that_is_not_finite_is_found_too(tmp_path, monkeypatch):
    """The loss may be fine while its gradient is not; the weights would be lost all the same."""
    real = StepLoss.__call__

    class BadGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.inf

    monkeypatch.setattr(StepLoss, "__call__", lambda self, heads, *rest: BadGradient.apply(real(self, heads, *rest)))
    with pytest.raises(ValueError, match="not finite at step 1; nothing had been saved yet"):
        short_training(tmp_path)


def test_folder_that_holds_a_training_is_not_overwritten(tmp_path, undisturbed):
    with pytest.raises(ValueError, match="already holds a training: go on with it"):
        short_training(undisturbed.out)


def test_resuming_with_other_settings_names_them(undisturbed):
    with pytest.raises(ValueError, match=r"other settings: .*batch_size was 3 and is 4"):
        short_training(undisturbed.out, resume=True, batch_size=4)
    with pytest.raises(ValueError, match=r"other settings: .*deeplabv3plus_resnet18"):
        short_training(undisturbed.out, resume=True, model="deeplabv3plus_resnet18")


def test_resuming_on_data_of_other_classes_is_refused(undisturbed):
    class Fewer(Scenes):
        classes = Scenes.classes[:5]

    with pytest.raises(ValueError, match="classes was background, disk"):
        train(short_config(undisturbed.out, resume=True), train_set=Fewer("train", (64, 64), length=10))


def test_resuming_what_is_not_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no training to go on with; start without resume"):
        short_training(tmp_path, resume=True)


def test_batch_of_one_is_refused_before_anything_is_saved(tmp_path):
    with pytest.raises(ValueError, match="this batch has one image"):
        short_training(tmp_path, batch_size=1)
    assert not (tmp_path / "last.safetensors").exists()


@pytest.mark.parametrize("name", ["steps", "batch_size", "save_every", "learning_rate", "clip_norm", "limit"])
def test_settings_that_make_no_sense_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        TrainConfig(**{name: 0})


def test_crops_no_model_can_take_and_negative_workers_are_refused():
    with pytest.raises(ValueError, match=r"crop=\(32, 64\): height and width must be at least 33"):
        TrainConfig(crop=(32, 64))
    with pytest.raises(ValueError, match=r"workers=-1: allowed are 0"):
        TrainConfig(workers=-1)


def test_evaluating_on_other_classes_is_refused():
    with pytest.raises(ValueError, match="the model has 5 classes and the data 11"):
        evaluate(create_model("deeplabv3plus_mini", 5), Scenes("val", length=1))


@pytest.mark.parametrize(("data", "preset"), list(PRESETS))
def test_every_preset_is_a_config_whose_model_exists(data, preset):
    config = preset_config(data, preset, seed=7)
    assert (config.seed, config.data, config.preset) == (7, data, preset)
    with torch.device("meta"):
        create_model(config.model, 3, output_stride=config.output_stride)


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="no preset 'tpu': allowed are cpu and gpu"):
        preset_config("scenes", "tpu")


# evaluation -----------------------------------------------------------------------------------------------------


class TwoSizes(SegmentationDataset):
    """Pictures of two sizes in turn, as VOC has them."""

    classes = Scenes.classes

    def __init__(self) -> None:
        self.small, self.large = Scenes("val", (64, 64), length=4), Scenes("val", (96, 80), length=4)

    def __len__(self) -> int:
        return 6

    def read(self, index: int) -> tuple[np.ndarray, ...]:
        return (self.small if index in (0, 1, 4) else self.large).read(index % 4)


def test_batched_evaluation_equals_one_picture_at_a_time():
    torch.manual_seed(0)
    model = create_model("deeplabv3plus_mini", 11)
    many, one = (evaluate(model, TwoSizes(), batch_size=size) for size in (3, 1))
    assert many.to_json() == one.to_json()
    assert many.pictures == 6
    assert model.training, "the mode is put back"


def test_evaluation_prints_what_it_measured():
    model = create_model("deeplabv3plus_mini", 11)
    scores = evaluate(model, Scenes("val", (64, 64), length=2))
    lines = {line.rsplit(maxsplit=1)[0].strip(): line.split()[-1] for line in str(scores).splitlines()}
    assert lines["mean IoU"] == f"{100 * scores.mean_iou:.1f}"
    assert lines["pixel accuracy"] == f"{100 * scores.pixel_accuracy:.1f}"
    text = str(scores)
    for name in Scenes.classes:
        assert name in text
    assert "1 px" in text
    assert "16 px" in text
    assert "2 pictures" in text
