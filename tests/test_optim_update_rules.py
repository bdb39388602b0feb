"""The lesson's optimizers take torch's steps, and do what is said about them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deeplab_lesson.training.update_rules import SGD, UPDATE_RULES, AdaGrad, Adam, Momentum, Nesterov, RMSProp

THEIRS = {
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters, **options: torch.optim.SGD(parameters, momentum=0.9, **options),
    "nesterov": lambda parameters, **options: torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **options),
    "adagrad": torch.optim.Adagrad,
    "rmsprop": lambda parameters, **options: torch.optim.RMSprop(parameters, alpha=0.9, **options),
    "adam": torch.optim.Adam,
}


def least_squares(seed: int) -> tuple[list[Tensor], callable]:
    """Parameters of a linear model with a bias, and the loss that random data give it."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = (torch.randn(20, size, generator=generator, dtype=torch.float64) for size in (4, 3))
    start = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (3,))]

    def loss(weight: Tensor, bias: Tensor) -> Tensor:
        return (inputs @ weight + bias - targets).square().sum(dim=1).mean()

    return start, loss


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    weight_decay=st.sampled_from([0.0, 5e-4, 0.1]),
    learning_rate=st.sampled_from([1e-3, 0.01, 0.03]),
)
@pytest.mark.parametrize("name", list(UPDATE_RULES))
def test_50_steps_equal_torchs(name: str, seed: int, weight_decay: float, learning_rate: float) -> None:
    """Both get the gradients along torch's path: RMSProp's own would blow rounding up, near a minimum a sign is all."""
    start, loss = least_squares(seed)
    ours, theirs = [value.clone() for value in start], [value.clone().requires_grad_() for value in start]
    rule = UPDATE_RULES[name](ours, learning_rate, weight_decay=weight_decay)
    optimizer = THEIRS[name](theirs, lr=learning_rate, weight_decay=weight_decay)
    for _ in range(50):
        optimizer.zero_grad()
        loss(*theirs).backward()
        rule.step([value.grad for value in theirs])
        optimizer.step()
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other.detach(), rtol=1e-12, atol=1e-12)
    assert not torch.equal(ours[0], start[0])


@pytest.mark.parametrize("name", list(UPDATE_RULES))
def test_least_squares_are_solved(name: str) -> None:
    start, loss = least_squares(0)
    rule = UPDATE_RULES[name](start, {"adagrad": 0.5, "adam": 0.05, "rmsprop": 0.01}.get(name, 0.02))
    before = loss(*start).item()
    for _ in range(600):
        variables = [value.clone().requires_grad_() for value in start]
        rule.step(torch.autograd.grad(loss(*variables), variables))
    variables = [value.clone().requires_grad_() for value in start]
    residual = math.sqrt(sum(g.square().sum().item() for g in torch.autograd.grad(loss(*variables), variables)))
    assert loss(*start).item() < before
    assert residual < 0.2 * (1 if name == "rmsprop" else 0.1)  # RMSProp's steps do not shrink with the gradient


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (SGD, (-0.1, -0.001)),
        (Momentum, (-0.1, -0.001)),
        (Nesterov, (-0.19, -0.0019)),
        (AdaGrad, (-0.1, -0.1)),
        (RMSProp, (-0.1 / math.sqrt(0.1), -0.1 / math.sqrt(0.1))),
        (Adam, (-0.1, -0.1)),
    ],
)
def test_first_step_of_a_large_and_a_small_gradient(rule: type[SGD], expected: tuple[float, float]) -> None:
    """The adaptive rules take equal steps for 1 and 0.01; RMSProp's first is √10 times as large."""
    parameter = torch.zeros(2, dtype=torch.float64)
    rule([parameter], 0.1).step([torch.tensor([1.0, 0.01], dtype=torch.float64)])
    assert parameter.tolist() == pytest.approx(expected, rel=1e-5)


def steps_along(rule: SGD, gradient: float, count: int) -> list[float]:
    places = []
    for _ in range(count):
        before = rule.parameters[0].item()
        rule.step([torch.full((1,), gradient, dtype=torch.float64)])
        places.append(before - rule.parameters[0].item())
    return places


def test_velocity_grows_to_ten_times_the_step_and_adagrads_steps_shrink_like_one_over_root_t() -> None:
    zeros = [torch.zeros(1, dtype=torch.float64) for _ in range(3)]
    assert steps_along(Momentum([zeros[0]], 0.1), 2.0, 200)[-1] == pytest.approx(10 * 0.1 * 2.0)
    shrinking = steps_along(AdaGrad([zeros[1]], 0.1), 2.0, 100)
    assert shrinking == pytest.approx([0.1 / math.sqrt(t) for t in range(1, 101)])
    assert steps_along(Adam([zeros[2]], 0.1), 2.0, 100) == pytest.approx([0.1] * 100)


def test_memory_is_explicit() -> None:
    """Nothing for SGD, one number a parameter for four rules, two for Adam."""
    shapes = [torch.zeros(4, 3), torch.zeros(3)]

    def numbers(name: str) -> int:
        held = [value for value in vars(UPDATE_RULES[name](shapes, 0.1)).values() if isinstance(value, list)]
        return sum(t.numel() for memory in held for t in memory if isinstance(t, Tensor)) // 15 - 1  # - the parameters

    assert {name: numbers(name) for name in UPDATE_RULES} == {
        "sgd": 0, "momentum": 1, "nesterov": 1, "adagrad": 1, "rmsprop": 1, "adam": 2,
    }  # fmt: skip


def test_parameters_of_a_module_are_changed_in_place() -> None:
    layer = torch.nn.Linear(3, 2)
    weight, before = layer.weight, layer.weight.detach().clone()
    SGD(layer.parameters(), 0.5).step([torch.ones(2, 3), torch.ones(2)])
    assert layer.weight is weight
    torch.testing.assert_close(layer.weight.detach(), before - 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD([], 0.1), "no parameters to update: give tensors"),
        (lambda: SGD([torch.zeros(1)], 0.0), r"learning_rate=0.0, .*a rate above 0"),
        (lambda: SGD([torch.zeros(1)], math.nan), r"learning_rate=nan, .*a rate above 0"),
        (lambda: Adam([torch.zeros(1)], 0.1, weight_decay=-1.0), r"weight_decay=-1.0: .*a decay from 0"),
        (lambda: Momentum([torch.zeros(1)], 0.1, momentum=1.0), r"momentum=1.0: allowed are numbers from 0 up to"),
        (lambda: RMSProp([torch.zeros(1)], 0.1, decay=1.5), r"decay=1.5: allowed"),
        (lambda: Adam([torch.zeros(1)], 0.1, betas=(0.9, 1.0)), r"betas\[1\]=1.0: allowed"),
        (lambda: SGD([torch.zeros(1)], 0.1).step([]), "0 gradients for 1 parameters: give one for each"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
