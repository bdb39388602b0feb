"""The loss of a step: every output that shall be scored, at the pixels asked for, by the losses asked for."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from deeplab_lesson import create_model
from deeplab_lesson.layers.resize import resize_features, resize_labels
from deeplab_lesson.losses import LOSSES, count_valid_pixels, cross_entropy, dice_loss
from deeplab_lesson.models.panoptic_instances import panoptic_loss, panoptic_targets
from deeplab_lesson.training import StepLoss, TrainConfig
from deeplab_lesson.training.step_loss import parse_losses, subsample


def random_batch(size: tuple[int, int] = (24, 32), classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(2, classes, *size)
    labels = torch.randint(0, classes, (2, *size))
    labels[torch.rand(labels.shape) < 0.2] = 255
    return logits, labels


# losses ---------------------------------------------------------------------------------------------------------


def test_default_is_cross_entropy_of_the_output() -> None:
    logits, labels = random_batch()
    torch.testing.assert_close(StepLoss()({"out": logits}, labels), cross_entropy(logits, labels))


def test_losses_are_summed_with_their_factors() -> None:
    logits, labels = random_batch()
    got = StepLoss(["cross_entropy=2", "dice=0.5"])({"out": logits}, labels)
    torch.testing.assert_close(got, 2 * cross_entropy(logits, labels) + 0.5 * dice_loss(logits, labels))


def test_class_weights_reach_the_losses() -> None:
    logits, labels = random_batch()
    weights = torch.tensor([0.1, 1, 2, 5, 0.5])
    got = StepLoss(class_weights=weights)({"out": logits}, labels)
    torch.testing.assert_close(got, cross_entropy(logits, labels, class_weights=weights))
    assert not torch.isclose(got, cross_entropy(logits, labels))


@pytest.mark.parametrize("label_stride", [1, 4])
def test_parts_of_a_batch_with_the_shared_count_have_the_whole_batchs_mean(label_stride: int) -> None:
    """What several processes need: their mean is then the loss of one process with all pictures."""
    logits, labels = random_batch()
    labels[0, 3:] = 255  # one part is mostly void
    loss = StepLoss(label_stride=label_stride)
    count = count_valid_pixels(subsample(labels, label_stride)) / 2
    parts = [loss({"out": logits[i : i + 1]}, labels[i : i + 1], valid_pixels=count) for i in (0, 1)]
    torch.testing.assert_close(sum(parts) / 2, loss({"out": logits}, labels))


# outputs --------------------------------------------------------------------------------------------------------


def heads_of(name: str, **options: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        return create_model(name, 5, **options).forward_heads(torch.randn(2, 3, 48, 64))


@pytest.mark.parametrize(
    ("name", "options", "weights"),
    [
        ("deeplabv3plus_mini", {}, {"out": 1}),
        ("deeplabv3_mini", {"aux_head": True}, {"out": 1, "aux": 0.4}),
        ("attention_to_scale_mini", {}, {"out": 1, "scale_1": 1, "scale_0.5": 1}),
        ("attention_to_scale_mini", {"fusion": "max"}, {"out": 1, "scale_1": 1, "scale_0.5": 1}),
        ("deeplabv2_mini", {"multi_scale_inputs": True}, {"out": 1, "scale_1": 1, "scale_0.75": 1, "scale_0.5": 1}),
        ("panoptic_deeplab_mini", {}, {"out": 1}),
    ],
)
def test_further_outputs_add_their_loss(name: str, options: dict, weights: dict[str, float]) -> None:
    heads = heads_of(name, **options)
    _, labels = random_batch((48, 64))
    assert StepLoss().weights(heads) == weights
    want = sum(weight * cross_entropy(heads[key], labels) for key, weight in weights.items())
    torch.testing.assert_close(StepLoss()(heads, labels), want)
    quarter = {key: 1 if key == "out" else 0.25 for key in weights}
    other = sum(weight * cross_entropy(heads[key], labels) for key, weight in quarter.items())
    torch.testing.assert_close(StepLoss(auxiliary_weight=0.25)(heads, labels), other)
    torch.testing.assert_close(StepLoss(auxiliary_weight=0)(heads, labels), cross_entropy(heads["out"], labels))


def test_instances_add_the_losses_of_centers_and_offsets() -> None:
    heads = heads_of("panoptic_deeplab_mini")
    _, labels = random_batch((48, 64))
    instances = torch.zeros(2, 48, 64, dtype=torch.int64)
    instances[:, 5:20, 10:30], instances[1, 30:40, 40:60] = 1, 2
    want = panoptic_loss(heads, labels, panoptic_targets(instances))
    torch.testing.assert_close(StepLoss()(heads, labels, instances), want)
    no_objects = {"out": heads["out"]}
    torch.testing.assert_close(StepLoss()(no_objects, labels, instances), cross_entropy(heads["out"], labels))


# label stride ---------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(stride=st.integers(1, 9), rows=st.integers(1, 6), columns=st.integers(1, 6))
def test_subsampled_labels_are_the_nearest_exact_ones(stride: int, rows: int, columns: int) -> None:
    labels = torch.randint(0, 21, (2, stride * rows, stride * columns))
    assert torch.equal(subsample(labels, stride), resize_labels(labels, (rows, columns)))


@pytest.mark.parametrize("stride", [3, 5, 7])
def test_for_an_odd_stride_the_logits_are_the_networks_own(stride: int) -> None:
    own = torch.randn(2, 5, 6, 7)
    enlarged = resize_features(own, (6 * stride, 7 * stride))
    torch.testing.assert_close(subsample(enlarged, stride), own)
    labels = torch.randint(0, 5, (2, 6 * stride, 7 * stride))
    small = cross_entropy(own, resize_labels(labels, (6, 7)))
    torch.testing.assert_close(StepLoss(label_stride=stride)({"out": enlarged}, labels), small)


@pytest.mark.parametrize("stride", [2, 8, 16])
def test_for_an_even_stride_one_part_in_2_stride_of_the_neighbors_is_mixed_in(stride: int) -> None:
    own = torch.randn(1, 1, 1, 9)
    enlarged = resize_features(own.expand(1, 1, 3, 9), (3 * stride, 9 * stride))
    share = 1 / (2 * stride)
    mixed = (1 - share) * own[..., :-1] + share * own[..., 1:]
    torch.testing.assert_close(subsample(enlarged, stride)[:, :, 1:2, :-1], mixed)


def test_gradient_reaches_only_the_pixels_that_are_scored() -> None:
    logits, labels = random_batch()
    logits.requires_grad_()
    StepLoss(label_stride=8)({"out": logits}, labels.clamp(max=4)).backward()
    touched = logits.grad.abs().sum(dim=(0, 1)) > 0
    assert touched.nonzero().tolist() == [[row, column] for row in (4, 12, 20) for column in (4, 12, 20, 28)]


# words of the command line --------------------------------------------------------------------------------------


def test_every_loss_for_several_classes_is_in_the_help_and_trains() -> None:
    source = inspect.getsource(TrainConfig)
    logits, labels = random_batch()
    for name in sorted(LOSSES.keys() - {"binary_cross_entropy"}):
        assert name in source
        variable = logits.clone().requires_grad_()
        StepLoss((name,))({"out": variable}, labels).backward()
        assert variable.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (("cross_entropi",), r"there is no loss 'cross_entropi'.*'cross_entropy'"),
        (("dice=half",), r"losses holds 'dice=half': write NAME or NAME=FACTOR, such as dice=0.5"),
        (("dice=",), r"losses holds 'dice=': write NAME or NAME=FACTOR"),
        (("dice", "dice=2"), r"losses holds 'dice' twice: give each loss once"),
        (("cross_entropy=-1",), r"cross_entropy is -1"),
        (("cross_entropy=nan",), r"cross_entropy is nan"),
        ((), r"at least one loss"),
        ("dice", r"losses='dice' is one text"),
    ],
)
def test_losses_that_make_no_sense_are_refused(losses, message: str) -> None:
    for make in (StepLoss, lambda losses: TrainConfig(losses=losses)):
        with pytest.raises(ValueError, match=message):
            make(losses)


def test_words_become_factors() -> None:
    assert parse_losses(["cross_entropy", "dice=0.5", "edge=1e-3"]) == {"cross_entropy": 1, "dice": 0.5, "edge": 1e-3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_stride": 0}, "label_stride=0: allowed are whole numbers from 1"),
        ({"label_stride": 65, "crop": (64, 96)}, r"label_stride=65 with crop=\(64, 96\): no pixel would be left"),
        ({"auxiliary_weight": -0.1}, r"auxiliary_weight=-0.1: allowed are 0"),
        ({"auxiliary_weight": float("nan")}, r"auxiliary_weight=nan: allowed are 0"),
    ],
)
def test_strides_and_weights_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)


def test_all_void_batch_has_a_zero_loss_and_a_zero_gradient() -> None:
    logits, labels = random_batch()
    logits.requires_grad_()
    loss = StepLoss(["cross_entropy", "dice"], label_stride=8)({"out": logits}, torch.full_like(labels, 255))
    loss.backward()
    assert loss.item() == 0
    assert F.l1_loss(logits.grad, torch.zeros_like(logits)) == 0
