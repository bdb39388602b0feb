"""Frozen BatchNorm stays what it was through any training; momentum is TensorFlow's decay the other way round."""

import copy

import pytest
import torch
from few_steps import CLASSES, four_pictures, losses_of_steps
from torch import nn

from deeplab_lesson import create_model
from deeplab_lesson.data import Scenes
from deeplab_lesson.training import (
    evaluate,
    freeze_batch_norm,
    momentum_from_decay,
    set_batch_norm_momentum,
)  # fmt: skip


def norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)}


def contents(model: nn.Module) -> dict[str, torch.Tensor]:
    """Everything that BatchNorm keeps: scale, shift, running mean and variance, number of batches."""
    states = {name: layer.state_dict() for name, layer in norms(model).items()}
    return {f"{name}.{key}": value.clone() for name, state in states.items() for key, value in state.items()}


def warmed_up(name: str = "deeplabv3plus_mini") -> nn.Module:
    """A model whose statistics and scales are not what they began as."""
    torch.manual_seed(0)
    model = create_model(name, CLASSES)
    losses_of_steps(model, steps=3)
    return model


def test_frozen_batch_norm_is_unchanged_by_training_and_the_rest_trains() -> None:
    model = warmed_up()
    before, weights = contents(model), model.classifier.weight.detach().clone()
    assert freeze_batch_norm(model) == len(norms(model)) > 10
    losses = losses_of_steps(model, steps=4)  # calls model.train()
    after = contents(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not torch.equal(model.classifier.weight, weights)
    assert losses[-1] < losses[0]


def test_without_affine_scale_and_shift_train_on() -> None:
    model = warmed_up()
    before = contents(model)
    freeze_batch_norm(model, affine=False)
    losses_of_steps(model, steps=4)
    changed = {key.rpartition(".")[2] for key, value in contents(model).items() if not torch.equal(before[key], value)}
    assert changed == {"weight", "bias"}


def test_training_that_is_not_frozen_changes_all_of_it() -> None:
    """The proof that the tests above can fail."""
    model = warmed_up()
    before = contents(model)
    losses_of_steps(model, steps=4)
    assert not any(torch.equal(before[key], value) for key, value in contents(model).items())


def test_frozen_model_computes_in_training_what_it_computes_in_evaluation() -> None:
    model = warmed_up("deeplabv3_mini")  # its dropout is set aside
    freeze_batch_norm(model)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    images, _ = four_pictures()
    with torch.no_grad():
        torch.testing.assert_close(model.train()(images), model.eval()(images))
        assert model.train()(images[:1]).shape[0] == 1, "a batch of one is fine: nothing is normalized over it"


def test_freezing_lasts_through_train_evaluation_and_copies() -> None:
    model = warmed_up()
    freeze_batch_norm(model)

    def all_frozen(some: nn.Module) -> bool:
        return all(not layer.training and not layer.weight.requires_grad for layer in norms(some).values())

    assert all_frozen(model.train())
    assert model.training
    assert model.classifier.training
    assert all_frozen(copy.deepcopy(model).train())
    assert all_frozen(model.eval().train())
    evaluate(model, Scenes("val", (64, 64), length=1))
    assert model.training
    assert all_frozen(model)


def test_frozen_model_keeps_the_names_of_its_state() -> None:
    model, frozen = warmed_up(), warmed_up()
    freeze_batch_norm(frozen)
    assert list(frozen.state_dict()) == list(model.state_dict())
    model.load_state_dict(frozen.state_dict())
    assert freeze_batch_norm(frozen) == len(norms(model)), "twice does no harm"


def test_synchronized_batch_norm_is_frozen_too() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(warmed_up())
    freeze_batch_norm(model)
    before = contents(model)
    losses_of_steps(model, steps=1)  # SyncBatchNorm itself refuses a CPU while it trains
    assert before
    assert all(torch.equal(before[key], value) for key, value in contents(model).items())


def test_papers_decay_is_momentum_3e_4() -> None:
    assert momentum_from_decay(0.9997) == pytest.approx(3e-4)
    layer = nn.BatchNorm2d(2)
    set_batch_norm_momentum(layer, momentum_from_decay(0.9997))
    batch = torch.randn(8, 2, 5, 5) + 3.0
    layer(batch)
    torch.testing.assert_close(layer.running_mean, 3e-4 * batch.mean(dim=(0, 2, 3)))  # errata E48
    for _ in range(999):
        layer(batch)
    kept = 1 - layer.running_mean / batch.mean(dim=(0, 2, 3))
    torch.testing.assert_close(kept, torch.full((2,), 0.74), atol=0.005, rtol=0)


def test_momentum_reaches_every_layer() -> None:
    model = warmed_up()
    assert set_batch_norm_momentum(model, 0.02) == len(norms(model))
    assert {layer.momentum for layer in norms(model).values()} == {0.02}


@pytest.mark.parametrize("momentum", [0.0, -0.1, 1.5, float("nan")])
def test_momentum_outside_of_0_to_1_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=rf"momentum={momentum}: allowed are numbers above 0.*TensorFlow's decay"):
        set_batch_norm_momentum(nn.BatchNorm2d(2), momentum)


@pytest.mark.parametrize("decay", [1.0, -0.1, 9.997])
def test_decay_outside_of_0_to_1_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"decay={decay}: allowed"):
        momentum_from_decay(decay)


def test_model_without_batch_norm_is_named() -> None:
    with torch.device("meta"):
        model = create_model("deeplabv1_largefov", 2)
    for change in (freeze_batch_norm, lambda model: set_batch_norm_momentum(model, 0.1)):
        with pytest.raises(ValueError, match="DeepLabV1 has no BatchNorm: leave freeze_batch_norm"):
            change(model)
