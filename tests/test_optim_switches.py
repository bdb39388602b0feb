"""Every switch of TrainConfig reaches the training, is kept in the checkpoint, and survives a stop."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch
from short_training import short_config, short_sets, short_training
from torch import nn

from deeplab_lesson import create_model
from deeplab_lesson.losses import median_frequency_weights
from deeplab_lesson.training import (
    TrainConfig,
    Trainer,
    load_checkpoint,
    read_metadata,
    save_checkpoint,
    train,
)  # fmt: skip
from deeplab_lesson.training.checkpoint import load_state, save_state

SWITCHES = {
    "losses": ("cross_entropy", "dice=0.5"),
    "class_weights": "median_frequency",
    "label_stride": 4,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "schedule": "step",
    "step_every": 3,
    "bias_multiplier": 2.0,
    "batch_norm_momentum": 0.01,
    "warmup_steps": 2,
}


pytestmark = pytest.mark.usefixtures("one_thread")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "last.safetensors")


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def batch_norms(weights: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    return {key: value for key, value in weights.items() if key.rpartition(".")[0] in names}


# all of them ----------------------------------------------------------------------------------------------------


def test_switches_are_kept_in_the_checkpoint(tmp_path):
    short_training(tmp_path, steps=2, **SWITCHES)
    kept = read_metadata(tmp_path)["config"]
    for name, value in SWITCHES.items():
        assert kept[name] == (list(value) if isinstance(value, tuple) else value), name


def test_every_new_switch_changes_the_training(tmp_path):
    short_training(tmp_path / "plain", steps=3)
    short_training(tmp_path / "again", steps=3)
    plain = weights_of(tmp_path / "plain")
    assert equal(weights_of(tmp_path / "again"), plain)
    for name, value in SWITCHES.items():
        more = {"schedule": "step"} if name == "step_every" else {}
        short_training(tmp_path / name, steps=3, **{name: value}, **more)
        assert not equal(weights_of(tmp_path / name), plain), name


def test_learning_rate_falls_by_steps(tmp_path):
    short_training(tmp_path, steps=8, schedule="step", step_every=3, log_every=1, learning_rate=0.04)
    rates = [line["learning_rate"] for line in records(tmp_path) if "learning_rate" in line]
    assert rates == pytest.approx([0.04] * 3 + [0.004] * 3 + [0.0004] * 2)


def test_stopped_training_with_every_switch_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    short_training(tmp_path / "whole", steps=9, **SWITCHES)
    first = Trainer(short_config(tmp_path / "parts", steps=9, **SWITCHES), **short_sets())
    update = first._update

    def update_then_stop(images, labels):
        loss = update(images, labels)
        if first.step + 1 == 5:
            first.stop.signal = signal.SIGTERM
        return loss

    monkeypatch.setattr(first, "_update", update_then_stop)
    assert not first.run().finished
    torch.manual_seed(999)
    assert short_training(tmp_path / "parts", steps=9, resume=True, **SWITCHES).finished
    assert equal(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts"))
    one, two = (load_state(tmp_path / name / "resume.pt")["optimizer"]["state"] for name in ("whole", "parts"))
    assert all(torch.equal(one[key][name], two[key][name]) for key in one for name in ("exp_avg", "exp_avg_sq", "step"))


def test_training_saved_before_the_switches_existed_goes_on(tmp_path):
    short_training(tmp_path / "whole", steps=6)
    short_training(tmp_path / "old", steps=6)
    state = load_state(tmp_path / "old" / "resume.pt")
    older = {"losses", "class_weights", "label_stride", "auxiliary_weight", "optimizer", "schedule", "step_every",
             "bias_multiplier", "batch_norm_momentum", "freeze_batch_norm", "start_from"}  # fmt: skip
    assert older <= state["settings"].keys()
    state["settings"] = {key: value for key, value in state["settings"].items() if key not in older}
    save_state(tmp_path / "old" / "resume.pt", state)
    assert short_training(tmp_path / "old", steps=6, resume=True).finished
    with pytest.raises(ValueError, match=r"losses was \('cross_entropy',\) and is \('dice',\)"):
        short_training(tmp_path / "old", steps=6, resume=True, losses=("dice",))


def test_defaults_are_what_was_trained_before():
    """Whoever changes one of these changes what older runs are taken for when they go on."""
    fields = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    assert (fields["losses"], fields["class_weights"], fields["label_stride"]) == (("cross_entropy",), "none", 1)
    assert (fields["optimizer"], fields["schedule"], fields["bias_multiplier"]) == ("sgd", "poly", 1.0)
    assert (fields["start_from"], fields["freeze_batch_norm"], fields["batch_norm_momentum"]) == (None, False, None)
    assert fields["auxiliary_weight"] is None


# one by one -----------------------------------------------------------------------------------------------------


def test_class_weights_are_counted_on_the_pictures_that_are_trained_on(tmp_path):
    sets = short_sets()
    run = Trainer(short_config(tmp_path, class_weights="median_frequency", limit=4), **sets)
    labels = [sets["train_set"].read(index)[1] for index in range(4)]
    torch.testing.assert_close(run.update.loss.loss.class_weights, median_frequency_weights(labels, 11))


def test_auxiliary_outputs_train(tmp_path):
    torch.manual_seed(0)
    model = create_model("deeplabv3_mini", 11, aux_head=True)
    before = [parameter.detach().clone() for parameter in model.aux_head.parameters()]
    train(short_config(tmp_path, steps=2), model=model, **short_sets())
    changed = [not torch.equal(was, now) for was, now in zip(before, model.aux_head.parameters(), strict=True)]
    assert all(changed)


def test_attention_to_scale_trains_by_its_own_loss(tmp_path):
    result = short_training(tmp_path, steps=2, model="attention_to_scale_mini")
    short_training(tmp_path / "without", steps=2, model="attention_to_scale_mini", auxiliary_weight=0)
    one, other = (records(out)[0]["loss"] for out in (tmp_path, tmp_path / "without"))
    assert one > 2 * other, "three cross-entropies of an untrained network against one"
    assert result.finished


def test_batch_norm_momentum_reaches_the_model(tmp_path):
    run = Trainer(short_config(tmp_path, batch_norm_momentum=3e-4), **short_sets())
    assert {m.momentum for m in run.model.modules() if isinstance(m, nn.BatchNorm2d)} == {3e-4}


# two stages -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("stages") / "one"
    return short_training(out, steps=6, model="deeplabv3_mini", output_stride=16).out


def test_stage_two_at_output_stride_8_trains_with_the_batch_norm_of_stage_one(tmp_path, stage_one):
    """v3 section 4.1."""
    settings = {"steps": 6, "model": "deeplabv3_mini", "output_stride": 8, "start_from": stage_one / "last.safetensors"}
    second = short_training(tmp_path / "two", **settings, freeze_batch_norm=True)
    first, last = weights_of(stage_one), weights_of(tmp_path / "two")
    assert second.model.spec["output_stride"] == 8
    norms = batch_norms(first, second.model)
    assert len(norms) > 50
    assert equal(norms, batch_norms(last, second.model))
    convolutions = [key for key, value in first.items() if value.ndim == 4]
    assert not any(torch.equal(first[key], last[key]) for key in convolutions)
    assert load_checkpoint(tmp_path / "two")[0].spec["output_stride"] == 8

    short_training(tmp_path / "thawed", **settings)  # the same without freezing: all statistics move
    thawed = batch_norms(weights_of(tmp_path / "thawed"), second.model)
    assert not any(torch.equal(norms[key], thawed[key]) for key in norms if "running" in key)


def test_stage_two_begins_where_stage_one_ended(tmp_path, stage_one):
    run = Trainer(
        short_config(tmp_path, model="deeplabv3_mini", output_stride=8, start_from=stage_one / "last.safetensors"),
        **short_sets(),
    )
    assert equal({key: value.contiguous() for key, value in run.model.state_dict().items()}, weights_of(stage_one))


def test_stage_two_that_was_stopped_goes_on_from_its_own_weights(tmp_path, stage_one):
    """And needs those of the first stage no more."""
    start = Path(shutil.copy(stage_one / "last.safetensors", tmp_path / "start.safetensors"))
    settings = {"steps": 5, "model": "deeplabv3_mini", "output_stride": 8, "start_from": start,
                "freeze_batch_norm": True}  # fmt: skip
    short_training(tmp_path / "whole", **settings)
    first = Trainer(short_config(tmp_path / "parts", **settings), **short_sets())
    first.stop.signal = signal.SIGTERM  # after one step
    assert not first.run().finished
    start.unlink()
    assert short_training(tmp_path / "parts", resume=True, **settings).finished
    assert equal(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "deeplabv3plus_mini"},
            r"holds .*deeplabv3_mini.* and this training's model is .*deeplabv3plus_mini",
        ),
        ({"start_from": Path("gone")}, r"gone does not exist"),
    ],
)
def test_checkpoint_that_is_not_of_this_model_is_refused(tmp_path, stage_one, changes, message):
    config = short_config(tmp_path, **{"model": "deeplabv3_mini", "start_from": stage_one, **changes})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Trainer(config, **short_sets())


def test_option_that_changes_the_network_but_no_shape_is_refused(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", create_model("deeplabv3_mini", 11, multi_grid=(1, 1)), {})
    model = create_model("deeplabv3_mini", 11, multi_grid=(1, 2))
    with pytest.raises(ValueError, match=r"multi_grid.*allowed is the same model with the same classes and options"):
        Trainer(short_config(tmp_path / "run", start_from=tmp_path / "a.safetensors"), model, **short_sets())


def test_checkpoint_of_other_classes_is_refused(tmp_path):
    names = [f"class {number}" for number in range(11)]
    save_checkpoint(tmp_path / "a.safetensors", create_model("deeplabv3plus_mini", 11), {"classes": names})
    with pytest.raises(ValueError, match=r"trained on the classes class 0, .*same classes in the same order"):
        Trainer(short_config(tmp_path / "run", start_from=tmp_path / "a.safetensors"), **short_sets())


def test_checkpoint_is_taken_in_place_of_imagenet_weights(tmp_path, stage_one):
    """Nothing is downloaded only to be overwritten: the mini trunk would refuse to be pretrained."""
    settings = {"model": "deeplabv3_mini", "output_stride": 16, "start_from": stage_one}
    run = Trainer(short_config(tmp_path, pretrained_backbone=True, **settings), **short_sets())
    assert run.step == 0
