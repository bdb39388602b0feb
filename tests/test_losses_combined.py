"""Weighted sums of losses by name."""

import math

import pytest
import torch
from loss_batches import batch

from deeplab_lesson.losses import (
    LOSSES,
    combine,
    count_valid_pixels,
    cross_entropy,
    dice_loss,
    edge_loss,
    focal_loss,
    lovasz_softmax,
)

WEIGHTS = torch.tensor([0.2, 1, 3, 0, 0.5])


def test_sum_of_coefficient_times_loss_and_its_gradient() -> None:
    logits, labels = batch()
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = combine({"cross_entropy": 1.0, "dice": 0.5})
    total = loss(ours, labels)
    expected = cross_entropy(theirs, labels) + 0.5 * dice_loss(theirs, labels)
    torch.testing.assert_close(total, expected)
    total.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert loss.names == ("cross_entropy", "dice")
    assert repr(loss) == "CombinedLoss(1 cross_entropy + 0.5 dice)"


@pytest.mark.parametrize("name", LOSSES)
def test_one_term_is_the_loss_itself(name: str) -> None:
    logits, labels = batch(1 if name == "binary_cross_entropy" else 5)
    assert torch.equal(combine({name: 1})(logits, labels), LOSSES[name][0](logits, labels))


def test_values_of_the_terms_can_be_logged() -> None:
    logits, labels = batch()
    loss = combine({"lovasz_softmax": 2, "edge": 0})
    assert loss.values == {}
    total = loss(logits.requires_grad_(), labels)
    assert list(loss.values) == ["lovasz_softmax", "edge"]
    assert not any(value.requires_grad for value in loss.values.values())
    assert torch.equal(loss.values["edge"], edge_loss(logits, labels).detach())
    assert total.item() == 2 * lovasz_softmax(logits, labels).item()


def test_weights_and_valid_pixels_go_to_the_terms_that_take_them() -> None:
    logits, labels = batch()
    count = 3 * count_valid_pixels(labels, WEIGHTS)
    loss = combine({"focal": 1.0, "dice": 2.0, "edge": 4.0}, class_weights=WEIGHTS)
    expected = (
        focal_loss(logits, labels, class_weights=WEIGHTS, valid_pixels=count)
        + 2 * dice_loss(logits, labels, class_weights=WEIGHTS)
        + 4 * edge_loss(logits, labels)
    )
    torch.testing.assert_close(loss(logits, labels, valid_pixels=count), expected)


def test_void_goes_to_every_term() -> None:
    logits, labels = batch(void_share=0)
    loss = combine({name: 1 for name in LOSSES if name != "binary_cross_entropy"})
    assert torch.equal(loss(logits, labels, void=1), loss(logits, labels.where(labels != 1, 255)))


def test_options_reach_their_term() -> None:
    logits, labels = batch()
    loss = combine({"focal": 1.0, "edge": 1.0}, {"focal": {"gamma": 0}, "edge": {"criterion": "squared"}})
    expected = cross_entropy(logits, labels) + edge_loss(logits, labels, criterion="squared")
    torch.testing.assert_close(loss(logits, labels), expected)


@pytest.mark.parametrize(
    ("coefficients", "options", "kind", "message"),
    [
        (
            {"cros_entropy": 1},
            {},
            ValueError,
            r"no loss 'cros_entropy': did you mean 'cross_entropy'\?.*lovasz_softmax",
        ),
        ({"x": 1}, {}, ValueError, r"no loss 'x': Allowed: cross_entropy, ohem_cross_entropy, focal, .*edge$"),
        ({}, {}, ValueError, r"coefficients are \{\}: at least one loss"),
        ({"dice": 0}, {}, ValueError, r"\{'dice': 0\}: at least one loss must have one above 0"),
        ({"cross_entropy": 1, "dice": -0.5}, {}, ValueError, r"coefficient of dice is -0\.5: .*finite numbers from 0"),
        ({"dice": math.nan}, {}, ValueError, r"coefficient of dice is nan"),
        ({"dice": math.inf}, {}, ValueError, r"coefficient of dice is inf"),
        ({"dice": "0.5"}, {}, TypeError, r"coefficient of dice is '0\.5': allowed is a number"),
        ({"dice": True}, {}, TypeError, r"coefficient of dice is True"),
        ({"dice": 1}, {"dise": {}}, ValueError, r"options for 'dise', which is no term: did you mean 'dice'\?"),
        ({"focal": 1}, {"focal": {"gama": 2}}, ValueError, r"focal has no option 'gama': did you mean 'gamma'\?"),
        ({"focal": 1}, {"focal": {"void": 2}}, ValueError, r"focal has no option 'void': Allowed: gamma$"),
        ({"cross_entropy": 1}, {"cross_entropy": {"a": 2}}, ValueError, r"no option 'a': Allowed: none"),
    ],
)
def test_what_cannot_be_combined_is_refused(coefficients, options, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        combine(coefficients, options)
