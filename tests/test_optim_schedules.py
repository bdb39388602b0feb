"""Schedules are pure functions of the step with the papers' values; groups have the papers' rates and decays."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deeplab_lesson import create_model
from deeplab_lesson.training import (
    SCHEDULES,
    TrainConfig,
    build_optimizer,
    build_schedule,
    cosine_schedule,
    freeze_batch_norm,
    group_table,
    parameter_groups,
    poly_schedule,
    step_schedule,
)  # fmt: skip

# schedules ------------------------------------------------------------------------------------------------------


def test_step_schedule_falls_by_ten_every_2000_iterations() -> None:
    """The mistake of the articles: 2000 epochs; v1's run of 6000 iterations would then never see a fall."""
    schedule = step_schedule()
    falls = [step for step in range(1, 6000) if schedule(step) != schedule(step - 1)]
    assert falls == [2000, 4000]
    assert [schedule(step) for step in (0, 1999, 2000, 3999, 4000, 5999)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_poly_schedule_has_the_values_of_power_0_9() -> None:
    schedule = poly_schedule(20_000)
    assert schedule(10_000) == pytest.approx(0.536, abs=5e-4)
    assert schedule(18_000) == pytest.approx(0.126, abs=5e-4)


@settings(max_examples=20, deadline=None)
@given(total=st.integers(1, 200))
def test_cosine_schedule_equals_torchs(total: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    schedule = cosine_schedule(total)
    for step in range(total + 1):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        theirs.step()


def test_step_schedule_equals_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    schedule = step_schedule(every=7)
    for step in range(40):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def make(name: str, total: int, warmup_steps: int = 0):
    first = 50 if name == "step" else total  # the step schedule has no end
    return SCHEDULES[name](first, warmup_steps=warmup_steps)


@pytest.mark.parametrize("name", list(SCHEDULES))
@settings(max_examples=30, deadline=None)
@given(total=st.integers(2, 300), share=st.floats(0, 0.99))
def test_warm_up_is_shared_and_never_raises_the_rate_above_the_start(name: str, total: int, share: float) -> None:
    warmup = int(share * total)
    plain, warm = make(name, total), make(name, total, warmup)
    for step in range(total):
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        assert warm(step) == pytest.approx(rise * plain(step))
        assert 0 < warm(step) <= 1


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_schedule_has_no_memory_so_a_resumed_training_goes_on(name: str) -> None:
    schedule = make(name, 200, 10)
    forward = [schedule(step) for step in range(200)]
    assert [make(name, 200, 10)(step) for step in reversed(range(200))] == forward[::-1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: step_schedule(0), r"every=0, .*whole numbers of steps from 1"),
        (lambda: step_schedule(10, factor=1.5), r"factor=1.5: .*a factor above 0 and at most 1"),
        (lambda: step_schedule(10, warmup_steps=-1), r"warmup_steps=-1: allowed are whole numbers from 0"),
        (lambda: cosine_schedule(5, warmup_steps=5), r"total_steps=5, warmup_steps=5.*fewer warm-up steps"),
        (lambda: poly_schedule(0), r"total_steps=0.*at least one step"),
        (lambda: poly_schedule(5, warmup_steps=-1), r"warmup_steps=-1"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_settings_choose_the_schedule() -> None:
    assert set(SCHEDULES) == {"poly", "step", "cosine"}
    length = {"steps": 100, "warmup_steps": 10}
    for step in (0, 5, 30, 99):
        assert build_schedule(TrainConfig(**length))(step) == poly_schedule(100, 0.9, 10)(step)
        assert build_schedule(TrainConfig(**length, power=2.0))(step) == poly_schedule(100, 2.0, 10)(step)
        assert build_schedule(TrainConfig(**length, schedule="cosine"))(step) == cosine_schedule(100, 10)(step)
        by_ten = build_schedule(TrainConfig(**length, schedule="step", step_every=20))
        assert by_ten(step) == step_schedule(20, warmup_steps=10)(step)


# groups ---------------------------------------------------------------------------------------------------------


def by_name(groups: list) -> dict[int, dict]:
    return {id(parameter): group for group in groups for parameter in group["params"]}


@pytest.mark.parametrize("name", ["deeplabv1_largefov", "deeplabv2_resnet101", "fpn_mini"])
def test_rates_are_v1s_and_v2s_trunk_1_head_10_their_biases_2_and_20(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    groups = parameter_groups(model, 1e-3, 5e-4, head_multiplier=10, bias_multiplier=2)
    group_of, head = by_name(groups), {id(parameter) for parameter in model.head_parameters()}
    seen = set()
    for module in model.modules():
        for kind, parameter in module.named_parameters(recurse=False):
            group = group_of[id(parameter)]
            is_bias = kind == "bias" and isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
            rate = 1e-3 * (10 if id(parameter) in head else 1) * (2 if is_bias else 1)
            assert group["lr"] == pytest.approx(rate), kind
            assert group["weight_decay"] == (5e-4 if parameter.ndim > 1 else 0.0)
            seen.add(round(rate / 1e-3))
    assert seen >= {10, 20, 1}
    assert len(group_of) == len(list(model.parameters())), "each parameter is in one group"


def test_biases_are_beside_norms_as_long_as_their_rate_is_one() -> None:
    model = create_model("deeplabv3plus_mini", 5)
    plain = [group["name"] for group in parameter_groups(model, 0.1, 1e-4)]
    assert plain == ["trunk weights", "trunk biases and norms", "head weights", "head biases and norms"]
    split = [group["name"] for group in parameter_groups(model, 0.1, 1e-4, bias_multiplier=2)]
    assert split == ["trunk weights", "trunk norms", "head weights", "head biases", "head norms"]


def test_frozen_parameters_are_in_no_group() -> None:
    model = create_model("deeplabv3plus_mini", 5)
    freeze_batch_norm(model)
    groups = parameter_groups(model, 0.1, 1e-4)
    assert [group["name"] for group in groups] == ["trunk weights", "head weights", "head biases and norms"]
    assert groups[2]["params"] == [model.classifier.bias]
    with pytest.raises(ValueError, match="every parameter of the model is frozen"):
        parameter_groups(model.requires_grad_(False), 0.1, 1e-4)


def test_table_of_groups_tells_numbers_rates_and_decays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    table = group_table(parameter_groups(model, 0.01, 5e-4, bias_multiplier=2))
    assert table.splitlines() == [
        "group           parameters      rate     decay",
        "trunk weights          108      0.01    0.0005",
        "trunk biases             4      0.02         0",
        "trunk norms              8      0.01         0",
    ]
    large = group_table(parameter_groups(create_model("deeplabv3plus_mini"), 0.1, 1e-4))
    assert len({len(line) for line in large.splitlines()}) == 1, "columns stand under each other"
    assert "500,040" in large


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_settings_choose_the_optimizer(name: str, kind: type) -> None:
    config = TrainConfig(optimizer=name, learning_rate=0.02, momentum=0.8, head_multiplier=5, bias_multiplier=2)
    optimizer = build_optimizer(create_model("deeplabv3plus_mini", 5), config)
    assert type(optimizer) is kind
    assert {group["name"]: group["lr"] for group in optimizer.param_groups}["head biases"] == pytest.approx(0.2)
    for group in optimizer.param_groups:
        assert group["weight_decay"] == (1e-4 if group["name"].endswith("weights") else 0)
        assert (group["betas"][0] if name == "adamw" else group["momentum"]) == 0.8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "polly"}, "there is no schedule 'polly': allowed are poly, step, cosine"),
        ({"optimizer": "adam"}, "there is no optimizer 'adam': allowed are sgd, adamw"),
        ({"class_weights": "rare"}, "there is no class_weights 'rare': allowed are none, median_frequency"),
        ({"step_every": 0}, "step_every=0: allowed are whole numbers from 1"),
        ({"bias_multiplier": 0.0}, "bias_multiplier=0.0: it must be above 0"),
        ({"bias_multiplier": math.nan}, "bias_multiplier=nan: it must be above 0"),
    ],
)
def test_unknown_names_and_numbers_are_refused_with_what_is_allowed(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)
