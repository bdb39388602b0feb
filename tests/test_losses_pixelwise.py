"""The losses that judge each pixel alone equal torch's, torchvision's, other libraries' and numbers done by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_batches import VOID, batch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from deeplab_lesson.losses import binary_cross_entropy, cross_entropy, focal_loss, ohem_cross_entropy

WEIGHTS = torch.tensor([0.2, 1, 3, 0, 0.5])


def true_probabilities(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The softmax probability of the true class of each valid pixel, one after the other."""
    valid = labels != VOID
    return logits.softmax(dim=1).movedim(1, -1)[valid].gather(1, labels[valid][:, None]).squeeze(1)


# cross entropy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_equal_torchs(dtype: torch.dtype, weights: torch.Tensor | None) -> None:
    logits, labels = batch(dtype=dtype)
    weights = None if weights is None else weights.to(dtype)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = cross_entropy(ours, labels, class_weights=weights)
    expected = F.cross_entropy(theirs, labels, weight=weights, ignore_index=VOID)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_it_is_the_mean_over_the_valid_pixels() -> None:
    logits, labels = batch()
    expected = -true_probabilities(logits, labels).log().mean()
    assert cross_entropy(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_probability_of_one_fifth_costs_1_609() -> None:
    loss = cross_entropy(torch.zeros(1, 5, 2, 2), torch.tensor([[[0, 1], [4, VOID]]]))
    assert loss.item() == pytest.approx(math.log(5))
    assert round(loss.item(), 3) == 1.609


def test_scores_that_sum_to_more_than_1_cost_1_705_once_they_are_normalized() -> None:
    scores = torch.tensor([0.2, 0.8, 0.1])  # the article's, whose sum is 1.1
    loss = cross_entropy(scores.log()[None, :, None, None], torch.zeros(1, 1, 1).long())
    assert loss.item() == pytest.approx(-math.log(0.2 / 1.1))
    assert round(loss.item(), 3) == 1.705


# hard examples --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), threshold=st.floats(0, 1), min_kept=st.floats(0, 1), weighted=st.booleans())
def test_hard_pixels_are_those_that_sorting_by_hand_finds(
    seed: int, threshold: float, min_kept: float, weighted: bool
) -> None:
    logits, labels = batch(seed=seed)
    weights = WEIGHTS if weighted else torch.ones(5)
    pixels = sorted(
        zip(true_probabilities(logits, labels).tolist(), weights[labels[labels != VOID]].tolist(), strict=True)
    )
    fewest = max(1, math.ceil(round(min_kept * len(pixels), 4)))
    kept = [pixel for place, pixel in enumerate(pixels) if pixel[0] < threshold or place < fewest]
    weight = sum(w for _, w in kept)
    expected = sum(-w * math.log(p) for p, w in kept) / weight if weight else 0
    found = ohem_cross_entropy(logits, labels, threshold=threshold, min_kept=min_kept, class_weights=weights)
    one_more = pixels[: len(kept) + 1]  # float32 may round the number of pixels up
    other = sum(-w * math.log(p) for p, w in one_more) / max(sum(w for _, w in one_more), 1e-12)
    assert found.item() in (pytest.approx(expected, rel=1e-4), pytest.approx(other, rel=1e-4))


def test_the_default_keeps_what_is_below_0_7_and_a_sixteenth_at_least() -> None:
    surely_right = torch.zeros(1, 2, 8, 8)
    surely_right[:, 0] = torch.linspace(2, 6, 64).reshape(8, 8)  # all probabilities above 0.8
    labels = torch.zeros(1, 8, 8).long()
    hardest_four = F.cross_entropy(surely_right, labels, reduction="none").flatten().topk(4).values
    torch.testing.assert_close(ohem_cross_entropy(surely_right, labels), hardest_four.mean())
    logits, labels = batch()
    p = true_probabilities(logits, labels)
    assert len(p) / 16 < (p < 0.7).sum() < len(p)
    torch.testing.assert_close(ohem_cross_entropy(logits, labels), -p[p < 0.7].log().mean())


def test_pixels_that_are_not_hard_get_no_gradient() -> None:
    logits, labels = batch()
    logits.requires_grad_()
    ohem_cross_entropy(logits, labels).backward()
    p = torch.full(labels.shape, torch.nan)
    p[labels != VOID] = true_probabilities(logits.detach(), labels)
    touched = (logits.grad != 0).any(dim=1)
    assert torch.equal(touched, p < 0.7)


def test_keeping_all_pixels_is_cross_entropy() -> None:
    logits, labels = batch()
    for weights in (None, WEIGHTS):
        expected = cross_entropy(logits, labels, class_weights=weights)
        torch.testing.assert_close(ohem_cross_entropy(logits, labels, min_kept=1, class_weights=weights), expected)
        torch.testing.assert_close(ohem_cross_entropy(logits, labels, threshold=1, class_weights=weights), expected)


@pytest.mark.parametrize("options", [{"threshold": 1.5}, {"threshold": math.nan}, {"min_kept": 100000}])
def test_shares_outside_0_to_1_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"threshold=.*min_kept=.*allowed are 0 to 1.*not a number of pixels"):
        ohem_cross_entropy(*batch(), **options)


# focal ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_loss_with_gamma_0_is_exactly_cross_entropy(weights: torch.Tensor | None) -> None:
    logits, labels = batch()
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss, expected = (
        focal_loss(ours, labels, gamma=0, class_weights=weights),
        cross_entropy(theirs, labels, class_weights=weights),
    )
    assert torch.equal(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), gamma=st.floats(0, 6))
def test_focal_loss_is_the_articles_formula(seed: int, gamma: float) -> None:
    logits, labels = batch(seed=seed, dtype=torch.float64)
    p = true_probabilities(logits, labels)
    torch.testing.assert_close(focal_loss(logits, labels, gamma=gamma), (-((1 - p) ** gamma) * p.log()).mean())


def test_focal_loss_of_two_classes_equals_torchvisions_and_smps() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    one, labels = batch(1)
    two = torch.cat([torch.zeros_like(one), one], dim=1)
    valid = labels != VOID
    for gamma in (0.5, 2.0, 5.0):
        found = focal_loss(two, labels, gamma=gamma)
        theirs = sigmoid_focal_loss(one[:, 0][valid], labels[valid].float(), alpha=-1, gamma=gamma, reduction="mean")
        torch.testing.assert_close(found, theirs)
        torch.testing.assert_close(found, smp.FocalLoss("binary", gamma=gamma, ignore_index=VOID)(one, labels))


def test_focal_loss_of_many_classes_equals_smps_on_the_true_classs_log_odds() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, labels = batch()
    p = true_probabilities(logits.double(), labels)
    theirs = smp.FocalLoss("binary")((p / (1 - p)).log(), torch.ones_like(p))
    torch.testing.assert_close(focal_loss(logits, labels).double(), theirs, rtol=1e-5, atol=0)


def test_small_gamma_has_a_finite_gradient_where_the_answer_is_perfect() -> None:
    logits = torch.tensor([200.0, 0, 0])[None, :, None, None].requires_grad_()
    focal_loss(logits, torch.zeros(1, 1, 1).long(), gamma=0.1).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [-1.0, math.nan, math.inf])
def test_gamma_below_0_or_not_finite_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match=r"gamma=.*finite numbers from 0; 0 is cross entropy"):
        focal_loss(*batch(), gamma=gamma)


# one channel ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, torch.tensor([0.3, 2.0])])
def test_one_channel_equals_two_whose_first_is_0(weights: torch.Tensor | None) -> None:
    logits, labels = batch(1)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = binary_cross_entropy(ours, labels, class_weights=weights)
    two = torch.cat([torch.zeros_like(theirs), theirs], dim=1)
    expected = cross_entropy(two, labels, class_weights=weights)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_one_channel_equals_torchs_on_the_valid_pixels() -> None:
    logits, labels = batch(1)
    valid = labels != VOID
    expected = F.binary_cross_entropy(logits[:, 0][valid].sigmoid(), labels[valid].float())
    torch.testing.assert_close(binary_cross_entropy(logits, labels), expected)


def test_one_channel_with_the_labels_of_21_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ids \[15\]: allowed are 0 to 1 and 255 \(void\)"):
        binary_cross_entropy(torch.zeros(1, 1, 1, 3), torch.tensor([[[0, 15, VOID]]]))
