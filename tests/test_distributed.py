"""One training on several processes: real ones, connected by gloo. `python test_distributed.py CASES OUT` is one."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from short_training import short_config
from torch import nn

from deeplab_lesson import create_model
from deeplab_lesson.data import Scenes
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training import StepLoss, TrainConfig, Trainer, TrainResult, freeze_batch_norm, train
from deeplab_lesson.training import distributed as distributed_module
from deeplab_lesson.training.checkpoint import load_state
from deeplab_lesson.training.distributed import (
    AgreedStop,
    evaluate_together,
    joined_processes,
    own_device,
    rank,
    synchronize_batch_norm,
    world_size,
)
from deeplab_lesson.training.interrupt import Stopped, StopSwitch
from deeplab_lesson.training.loader import BatchStream, Shard, check_pictures, check_shares

STEPS = 6
LENGTHS = (4, 5, 7)  # of evaluated sets: with every remainder that matters
CLASSES = len(Scenes.classes)


# what the processes do: each case is called on every process of a group, and by the test alone ---------------------


def settings(out: Path, **changes: Any) -> TrainConfig:
    config = short_config(out, steps=STEPS, batch_size=4, evaluate_every=3, log_every=1, freeze_batch_norm=True)
    return replace(config, **changes)


def sets(train_length: int = 10, val_length: int = 3) -> dict[str, Scenes]:
    return {
        "train_set": Scenes("train", (64, 64), length=train_length),
        "val_set": Scenes("val", (64, 64), length=val_length),
    }


def outcome(result: TrainResult) -> dict[str, Any]:
    return {"weights": result.model.state_dict(), "finished": result.finished,
            "scores": result.evaluation and result.evaluation.to_json()}  # fmt: skip


def model(name: str = "deeplabv3plus_mini", dropout: float = 0.0, **options: Any) -> SegmentationModel:
    """The same weights each time. Dropout differs from process to process, as it must, so most cases have none."""
    torch.manual_seed(0)
    built = create_model(name, CLASSES, **options)
    for layer in built.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = dropout
    return built


def plain(out: Path) -> dict[str, Any]:
    return outcome(train(settings(out, tensorboard=True), model=model(), **sets()))


def more_pictures(out: Path) -> dict[str, Any]:
    return outcome(train(settings(out), model=model(), **sets(val_length=LENGTHS[-1])))


def every_switch(out: Path) -> dict[str, Any]:
    """Weighted classes, two losses, fewer labels, an auxiliary head, parts of one picture."""
    config = settings(
        out, losses=("cross_entropy", "focal=0.5"), class_weights="median_frequency", label_stride=3, accumulate=2
    )
    return outcome(train(config, model=model("deeplabv3_mini", aux_head=True), **sets()))


def head_left_out(out: Path) -> dict[str, Any]:
    config = settings(out, auxiliary_weight=0.0)
    return outcome(train(config, model=model("deeplabv3_mini", aux_head=True), **sets()))


def gradient_where_much_is_void(out: Path, *, naive: bool = False) -> torch.Tensor:
    """Of pictures 0 to 3, the last two have one labeled row each."""
    trainer = Trainer(settings(out, clip_norm=1e9), model(), **sets())
    if naive:
        trainer.update._valid_pixels = lambda labels: None  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(4, 3, 48, 48, generator=generator)
    labels = torch.randint(0, CLASSES, (4, 48, 48), generator=generator)
    labels[2:, 1:] = 255
    own = slice(4 * rank() // world_size(), 4 * (rank() + 1) // world_size())
    trainer._update(images[own], labels[own])
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def void(out: Path) -> dict[str, torch.Tensor]:
    return {
        "ours": gradient_where_much_is_void(out / "ours"),
        "naive": gradient_where_much_is_void(out / "naive", naive=True),
    }


class Noted(Scenes):
    """Remembers which pictures were read."""

    seen: list[int]

    def read(self, index: int) -> tuple[Any, ...]:
        self.seen = [*getattr(self, "seen", []), index]
        return super().read(index)


def scores(out: Path) -> dict[int, tuple[dict[str, Any], list[int]]]:
    """BatchNorm's statistics differ from process to process before: those of process 0 count."""
    scored, noise = model(), torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for _ in range(5):
            scored.train()(noise)
        scored.classifier.bias -= scored.eval()(noise).mean(dim=(0, 2, 3))  # no class is the answer everywhere
        for layer in scored.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean += 0.5 * rank() * torch.randn(layer.num_features)
    found = {}
    for length in LENGTHS:
        pictures = Noted("val", (64, 64), length=length)
        found[length] = (evaluate_together(scored, pictures, StopSwitch(), batch_size=2).to_json(), pictures.seen)
    return found


def stopped_by_one(out: Path) -> dict[str, Any]:
    """With dropout and BatchNorm that trains: undisturbed; stopped by a signal to the last process; gone on."""

    def trainer(folder: Path, **changes: Any) -> Trainer:
        return Trainer(settings(folder, freeze_batch_norm=False, **changes), model(dropout=0.5), **sets())

    whole = outcome(trainer(out / "whole").run())
    first = trainer(out / "parts")
    update = first._update

    def update_then_signal(*batch: torch.Tensor) -> torch.Tensor:
        if first.step == 1 and rank() == world_size() - 1:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # torchrun repeats it
        return update(*batch)

    first._update = update_then_signal  # type: ignore[method-assign]
    part = outcome(first.run())
    torch.manual_seed(999 + rank())
    return {"whole": whole, "part": part, "step": first.step,
            "gone_on": outcome(trainer(out / "parts", resume=True).run())}  # fmt: skip


def stopped_in_an_evaluation(out: Path) -> dict[str, Any]:
    """The signal reaches process 0 while it reads its first picture."""

    class Signals(Scenes):
        def read(self, index: int) -> tuple[Any, ...]:
            if index == 0:
                signal.raise_signal(signal.SIGINT)
            return super().read(index)

    val_set = Signals("val", (64, 64), length=21)
    trainer = Trainer(settings(out), train_set=sets()["train_set"], val_set=val_set)
    result = trainer.run()
    return {"finished": result.finished, "step": trainer.step, "evaluation": result.evaluation}


def refused(out: Path) -> dict[str, str]:
    """What each attempt is answered."""
    answers = {}

    class NotFinite(StepLoss):
        def __call__(self, *args: Any, **more: Any) -> torch.Tensor:
            return super().__call__(*args, **more) * (math.nan if rank() == world_size() - 1 else 1.0)

    def not_finite() -> None:
        trainer = Trainer(settings(out / "nan", log_every=2), **sets())
        trainer.update.forward.module.loss.__class__ = NotFinite
        trainer.run()

    attempts: dict[str, Callable[[], object]] = {
        "batch": lambda: train(settings(out / "batch", batch_size=3), **sets()),
        "pictures": lambda: train(settings(out / "pictures"), **sets(val_length=1)),
        "resume": lambda: train(settings(out.parent.parent / "alone", resume=True, tensorboard=True), **sets()),
        "sync": lambda: train(settings(out / "sync", sync_batch_norm=True, freeze_batch_norm=False), **sets()),
        "nan": not_finite,
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except ValueError as error:
            answers[name] = str(error)
    return answers


def broken_picture(out: Path) -> None:
    """A picture that only the last process meets."""

    class Broken(Scenes):
        def read(self, index: int) -> tuple[Any, ...]:
            if rank() == world_size() - 1:
                raise ValueError("picture 7 is broken: mend it")
            return super().read(index)

    train(settings(out), train_set=Broken("train", (64, 64), length=10), val_set=sets()["val_set"])


CASES = {function.__name__: function for function in (
    plain, more_pictures, every_switch, head_left_out, void, scores, stopped_by_one, stopped_in_an_evaluation, refused,
    broken_picture,
)}  # fmt: skip


def main(names: str, out: Path) -> None:
    torch.set_num_threads(1)
    with joined_processes("cpu"):
        for name in names.split(","):
            torch.save(CASES[name](out / name), out / f"{name}.{rank()}.pt")
    assert world_size() == 1, "the group is left"


# starting them ------------------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def run_processes(count: int, names: str, out: Path) -> SimpleNamespace:
    """Run cases on a group of processes; returns each one's results and what it printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, names, str(out)],
            env=environment(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(count),
                            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(count)
    ]  # fmt: skip
    try:
        texts = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, "\n".join(texts)
    results = {
        name: [torch.load(out / f"{name}.{number}.pt", weights_only=False) for number in range(count)]
        for name in names.split(",")
    }
    return SimpleNamespace(texts=texts, **results)


def start_torchrun(*words: str, **more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *words]
    return subprocess.Popen(
        command, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def command_line(out: Path, pictures: Path, *more: str) -> list[str]:
    words = {
        "--data": "voc", "--root": pictures, "--steps": 4, "--batch-size": 4, "--crop": "48 48", "--save-every": 2,
        "--log-every": 2, "--device": "cpu", "--out": out,
    }  # fmt: skip
    return ["-m", "deeplab_lesson", "train", *(w for pair in words.items() for w in " ".join(map(str, pair)).split()),
            "--no-tensorboard", *more]  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of the cases."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("distributed") / "alone"
    return SimpleNamespace(out=out, plain=plain(out))


@pytest.fixture(scope="module")
def together(alone):
    """The same on two processes."""
    names = "plain,every_switch,head_left_out,void,scores,stopped_by_one,stopped_in_an_evaluation,refused"
    out = alone.out.parent / "together"
    out.mkdir()
    found = run_processes(2, names, out)
    found.out = out
    return found


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
            if "loss" in line]  # fmt: skip


def assert_close_weights(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: name + text)


# equal to one process -----------------------------------------------------------------------------------------------


def test_two_processes_give_losses_weights_and_scores_of_one_with_the_whole_batch(alone, together):
    torch.testing.assert_close(losses(together.out / "plain"), losses(alone.out), rtol=1e-5, atol=0)
    assert losses(alone.out)[0] != losses(alone.out)[1]
    untrained, trained = model().state_dict()["classifier.weight"], alone.plain["weights"]["classifier.weight"]
    assert (untrained - trained).abs().max() > 1e-3, "otherwise the weights would be equal for another reason"
    for number in (0, 1):
        assert_close_weights(together.plain[number]["weights"], alone.plain["weights"])
        assert together.plain[number]["scores"] == together.plain[0]["scores"]
    assert together.plain[0]["scores"]["mean_iou"] == pytest.approx(alone.plain["scores"]["mean_iou"], abs=1e-3)


def test_two_processes_have_the_same_weights_bit_for_bit(together):
    for case in (together.plain, together.every_switch, together.stopped_by_one):
        first, second = (part.get("gone_on", part)["weights"] for part in case)
        assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_weights_labels_losses_auxiliary_head_and_accumulation_keep_the_equality(together, tmp_path):
    assert_close_weights(together.every_switch[0]["weights"], every_switch(tmp_path)["weights"])
    torch.testing.assert_close(losses(together.out / "every_switch"), losses(tmp_path), rtol=1e-5, atol=0)


def test_head_that_no_loss_reads_stops_nothing(together, tmp_path):
    assert_close_weights(together.head_left_out[0]["weights"], head_left_out(tmp_path)["weights"])


def test_process_with_mostly_void_weighs_by_its_pixels(together, tmp_path):
    """Dividing by its own pixels, as any loss does by itself, such a process pulls as hard as the other one."""
    wanted = gradient_where_much_is_void(tmp_path)
    for number in (0, 1):
        torch.testing.assert_close(together.void[number]["ours"], wanted, rtol=1e-4, atol=1e-5)
    error = (together.void[0]["naive"] - wanted).norm() / wanted.norm()
    assert error > 0.3, f"the naive mean is off by {error:.0%}"


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_equal_the_whole_batch(tmp_path, parts, alone):
    config = settings(tmp_path, accumulate=parts, tensorboard=True)
    assert_close_weights(outcome(train(config, model=model(), **sets()))["weights"], alone.plain["weights"])
    torch.testing.assert_close(losses(tmp_path), losses(alone.out), rtol=1e-5, atol=0)


def test_accumulated_loss_by_regions_is_the_mean_of_the_parts(tmp_path):
    """Dice has no count of pixels to divide by: it is no sum over pixels."""
    whole = Trainer(settings(tmp_path / "whole", losses=("dice",)), model(), **sets())
    images, labels = torch.randn(4, 3, 48, 48), torch.randint(0, CLASSES, (4, 48, 48))
    whole.model.train()
    with torch.no_grad():
        parts = [whole.update.forward(images[i : i + 2], labels[i : i + 2]).item() for i in (0, 2)]
    accumulated = Trainer(settings(tmp_path / "parts", losses=("dice",), accumulate=2), model(), **sets())
    assert accumulated._update(images, labels).item() == pytest.approx(sum(parts) / 2, rel=1e-5)


@pytest.mark.slow
def test_four_processes_equal_one(tmp_path):
    """A set of three pictures is too small for four."""
    wanted = more_pictures(tmp_path / "alone")
    found = run_processes(4, "more_pictures,scores", tmp_path)
    for part in found.more_pictures:
        assert_close_weights(part["weights"], wanted["weights"])
        assert part["scores"]["mean_iou"] == pytest.approx(wanted["scores"]["mean_iou"], abs=1e-3)
    torch.testing.assert_close(losses(tmp_path / "more_pictures"), losses(tmp_path / "alone"), rtol=1e-5, atol=0)
    check_scores(found.scores)


# evaluation ---------------------------------------------------------------------------------------------------------


def check_scores(found: list[dict[int, Any]]) -> None:
    wanted = {length: values[0] for length, values in scores(Path()).items()}
    for length in LENGTHS:
        for part in found:
            assert part[length][0] == wanted[length]
        assert sorted(index for part in found for index in part[length][1]) == list(range(length))


def test_evaluation_in_parts_gives_the_same_numbers_and_reads_each_picture_once(together):
    check_scores(together.scores)


@given(st.integers(1, 300), st.integers(1, 40))
def test_shards_hold_every_picture_once_and_differ_by_one_at_most(length, parts):
    pictures = Scenes("val", (64, 64), length=length)
    shards = [Shard(pictures, part, parts) for part in range(parts)]
    assert [index for shard in shards for index in shard.indices] == list(range(length))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_shard_names_and_reads_its_own_pictures():
    pictures = Scenes("val", (64, 64), length=5)
    shard = Shard(pictures, 1, 2)
    assert [shard.name(index) for index in range(len(shard))] == [pictures.name(index) for index in (2, 3, 4)]
    assert (shard.read(0)[0] == pictures.read(2)[0]).all()
    assert shard.classes == pictures.classes


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_parts_of_a_batch_joined_are_the_batch(length, processes, each, first):
    whole = BatchStream(length, processes * each, seed=1, first_step=first, last_step=12)
    parts = [
        BatchStream(length, processes * each, seed=1, first_step=first, last_step=12, share=(part, processes))
        for part in range(processes)
    ]
    for batch, *split in zip(whole, *parts, strict=True):
        assert [view for part in split for view in part] == batch
        assert {len(part) for part in split} == {each}


# files, prints, TensorBoard -----------------------------------------------------------------------------------------


def test_first_process_alone_writes_and_prints(together):
    run = together.out / "plain"
    assert sorted(p.name for p in run.iterdir()) == [
        "best.safetensors", "last.safetensors", "metrics.jsonl", "resume.pt", "tensorboard"
    ]  # fmt: skip
    assert len(list((run / "tensorboard").iterdir())) == 1
    steps = [line["step"] for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
             if "loss" in line]  # fmt: skip
    assert steps == list(range(1, STEPS + 1))
    assert "cpu, float32, step 0 of 6, 2 processes" in together.texts[0]
    assert "step" not in together.texts[1]


def test_tensorboard_reads_back_what_the_metrics_say(together):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = together.out / "plain"
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    written = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in written] == list(range(1, STEPS + 1))
    assert [value for _, value in written] == pytest.approx(losses(run), rel=1e-6)
    assert [event.step for event in events.Scalars("mean_iou")] == [3, 6]


# stopping and going on ----------------------------------------------------------------------------------------------


def test_signal_to_one_process_stops_all_at_one_step_and_the_rest_gives_the_same_bits(together):
    for found in together.stopped_by_one:
        assert (found["part"]["finished"], found["step"]) == (False, 2)
        assert found["gone_on"]["finished"]
        assert found["gone_on"]["scores"] == found["whole"]["scores"]
        for name, tensor in together.stopped_by_one[0]["whole"]["weights"].items():
            assert torch.equal(found["gone_on"]["weights"][name], tensor), name
    runs = together.out / "stopped_by_one"
    assert "stopped by a signal at step 2 of 6: saved" in together.texts[0]
    assert losses(runs / "parts") == losses(runs / "whole")


def test_each_process_draws_its_own_dropout_and_goes_on_with_it(together):
    states = load_state(together.out / "stopped_by_one" / "whole" / "resume.pt")["random_states"]
    assert len(states) == 2
    assert not torch.equal(*states)


def test_signal_in_an_evaluation_stops_all_processes_before_it_has_ended(together):
    for found in together.stopped_in_an_evaluation:
        assert found == {"finished": False, "step": 3, "evaluation": None}
    assert load_state(together.out / "stopped_in_an_evaluation" / "resume.pt")["scored_step"] == 0


def test_wish_to_stop_is_granted_after_the_next_exchange(monkeypatch):
    stop = AgreedStop()
    monkeypatch.setattr(distributed_module.dist, "all_reduce", lambda message: message.add_(message.new_tensor([5, 0])))
    with stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        stop.check()
        assert stop.exchange(torch.tensor(3.0)) == 8
        with pytest.raises(Stopped):
            stop.check()


def test_torchrun_trains_from_the_command_line_and_prints_once(tmp_path, voc_folder):
    process = start_torchrun(*command_line(tmp_path / "run", voc_folder))
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert text.count("Saved in") == 1
    assert text.count("mean IoU near boundaries") == 1
    assert "step 0 of 4, 2 processes" in text
    assert load_state(tmp_path / "run" / "resume.pt")["settings"]["processes"] == "2"


def test_sigterm_to_torchrun_saves_and_ends(tmp_path, voc_folder):
    process = start_torchrun(*command_line(tmp_path / "run", voc_folder, "--steps", "100000"))
    wait_for(tmp_path / "run" / "resume.pt", process)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=120)
    assert "stopped by SIGTERM at step" in text
    assert text.count("Go on: the same command with --resume") == 1
    step = int(re.search(r"at step (\d+) of 100000: saved in", text)[1])
    assert load_state(tmp_path / "run" / "resume.pt")["step"] == step >= 2
    assert process.returncode != 0


# a process dies -----------------------------------------------------------------------------------------------------


def test_error_of_one_process_ends_all_with_both_messages(tmp_path):
    process = start_torchrun(__file__, "broken_picture", str(tmp_path))
    text, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "picture 7 is broken: mend it" in text
    assert "process 0 of 2 stops, because another process of this training has ended" in text


def test_killed_process_ends_all_and_leaves_the_checkpoint(tmp_path, voc_folder):
    process = start_torchrun(*command_line(tmp_path / "run", voc_folder, "--steps", "100000"))
    wait_for(tmp_path / "run" / "resume.pt", process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {read_rank(int(child)): int(child) for child in children}
    os.kill(ranks["1"], signal.SIGKILL)
    text, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "deeplab-lesson: process 0 of 2 stops, because another process of this training has ended" in text
    assert "go on with the same command and --resume" in text
    assert load_state(tmp_path / "run" / "resume.pt")["step"] >= 2


def read_rank(process: int) -> str:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
            if line.startswith(b"RANK="):
                return line[5:].decode()
    return "none"


# SyncBatchNorm ------------------------------------------------------------------------------------------------------


def test_conversion_keeps_names_numbers_and_momentum():
    plain_model = model()
    layers = [layer for layer in plain_model.modules() if isinstance(layer, nn.BatchNorm2d)]
    layers[0].momentum = 3e-4
    before = {name: tensor.clone() for name, tensor in plain_model.state_dict().items()}
    converted = synchronize_batch_norm(plain_model, torch.device("cuda"))
    found = [layer for layer in converted.modules() if isinstance(layer, nn.SyncBatchNorm)]
    assert len(found) == len(layers) > 5
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in converted.modules())
    assert found[0].momentum == 3e-4
    assert before.keys() == converted.state_dict().keys()
    assert all(torch.equal(converted.state_dict()[name], tensor) for name, tensor in before.items())


def test_converted_batch_norm_can_be_frozen_after():
    converted = synchronize_batch_norm(model(), torch.device("cuda"))
    assert freeze_batch_norm(converted) > 5
    before = {name: tensor.clone() for name, tensor in converted.named_buffers()}
    converted.train()(torch.randn(1, 3, 64, 64))
    assert all(torch.equal(buffer, before[name]) for name, buffer in converted.named_buffers())


def test_synchronized_batch_norm_is_refused_on_a_cpu_and_when_frozen(tmp_path):
    with pytest.raises(ValueError, match=r"sync_batch_norm=True on cpu: .*CUDA GPUs only; leave it out"):
        train(settings(tmp_path, sync_batch_norm=True), **sets())
    frozen = model()
    freeze_batch_norm(frozen)
    with pytest.raises(ValueError, match=r"with frozen BatchNorm.*take one of the two"):
        synchronize_batch_norm(frozen, torch.device("cuda"))


# bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("batch", "batch_size=3 is the batch of all processes together, and cannot be split evenly into 2 (processes) "
                  "x 1 (accumulate) parts: take 2 or 4"),
        ("pictures", "2 processes and 1 validation pictures: each process needs at least one; start at most 1"),
        ("resume", "other settings: processes was 1 and is 2"),
        ("sync", "sync_batch_norm=True on cpu"),
        ("nan", "not finite at step 1; nothing had been saved yet"),
    ],
)  # fmt: skip
def test_every_process_refuses_what_cannot_be(together, name, message):
    for answers in together.refused:
        assert message in answers[name]


def test_evaluate_command_on_two_processes_scores_as_on_one(alone, voc_folder, tmp_path):
    words = ["-m", "deeplab_lesson", "evaluate", alone.out / "last.safetensors", "--data", "voc", "--root", voc_folder]
    words = [*map(str, words), "--device", "cpu", "--json"]
    subprocess.run([sys.executable, *words, tmp_path / "one.json"], env=environment(), check=True, capture_output=True)
    text, _ = start_torchrun(*words, str(tmp_path / "two.json")).communicate(timeout=300)
    assert text.count("mean IoU  ") == 1, text  # one process prints
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one == two
    assert two["pictures"] == 2, "none counted twice"


def test_run_of_several_processes_does_not_go_on_in_one(together):
    with pytest.raises(ValueError, match="other settings: processes was 2 and is 1"):
        train(settings(together.out / "plain", resume=True, tensorboard=True), **sets())


def test_accumulation_of_no_part_is_refused():
    with pytest.raises(ValueError, match="accumulate=0: allowed are whole numbers from 1"):
        settings(Path(), accumulate=0)


def test_batch_smaller_than_its_parts_is_refused():
    config = settings(Path(), batch_size=2, accumulate=4)
    with pytest.raises(ValueError, match="take 4 or a multiple of it"):
        check_shares(config, 1, *sets().values())
    with pytest.raises(ValueError, match="take 8 or a multiple of it"):
        check_shares(config, 2, *sets().values())
    check_pictures(3, validation=3)


@pytest.mark.parametrize(
    ("device", "gpus", "message"),
    [
        ("mps", 0, "device='mps' with 2 processes: allowed are cuda"),
        ("cuda:0", 2, "device='cuda:0' with 2 processes: allowed are cuda"),
        ("cuda", 1, "process 1 of this machine has no GPU of its own, since there are 1: start --nproc_per_node=1"),
    ],
)
def test_device_that_processes_cannot_share_is_refused(monkeypatch, device, gpus, message):
    monkeypatch.setattr(distributed_module, "world_size", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match=message):
        own_device(torch.device(device))


def test_each_process_takes_the_gpu_of_its_local_rank(monkeypatch):
    monkeypatch.setattr(distributed_module, "world_size", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("LOCAL_RANK", "1")  # the second process of the second machine has the rank 3
    assert own_device(torch.device("cuda")) == torch.device("cuda", 1)
    assert own_device(torch.device("cpu")) == torch.device("cpu")


def test_other_errors_than_a_lost_peer_keep_their_text(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed_module.dist, "init_process_group", lambda backend: None)
    with pytest.raises(RuntimeError, match="shape mismatch"), joined_processes("cpu"):
        raise RuntimeError("shape mismatch")
    with pytest.raises(ConnectionError, match="another process"), joined_processes("cpu"):
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
