"""Dice and Lovász losses equal other libraries' and, on hard answers, the Dice coefficient and the IoU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_batches import OVERLAP, VOID, batch, one_hot_logits
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

from deeplab_lesson.losses import dice_loss, lovasz_softmax
from deeplab_lesson.metrics import ConfusionMatrix

overlap_loss = pytest.mark.parametrize("loss", OVERLAP)
seeds = given(seed=st.integers(0, 1000))


def hard_answers(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One-hot logits, the class ids they say, and labels, where class 4 may be said but never true."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (2, 6, 7), generator=generator)
    noise = torch.randint(0, 5, labels.shape, generator=generator)
    said = labels.where(torch.rand(labels.shape, generator=generator) < 0.5, noise)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = VOID
    return one_hot_logits(said, 5), said, labels


# hard answers ---------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@seeds
def test_on_hard_answers_dice_is_2_iou_over_1_plus_iou_by_class(seed: int) -> None:
    logits, said, labels = hard_answers(seed)
    matrix = ConfusionMatrix(5)
    matrix.update(said, labels)
    for c in labels[labels != VOID].unique().tolist():
        d = 1 - dice_loss(logits, labels, epsilon=1e-12, class_weights=torch.eye(5)[c]).item()
        iou = matrix.iou[c].item()
        assert d == pytest.approx(2 * iou / (1 + iou), abs=1e-6)


@settings(max_examples=20, deadline=None)
@seeds
def test_on_hard_answers_lovasz_is_1_minus_iou_by_class(seed: int) -> None:
    logits, said, labels = hard_answers(seed)
    matrix = ConfusionMatrix(5)
    matrix.update(said, labels)
    for c in labels[labels != VOID].unique().tolist():
        loss = lovasz_softmax(logits, labels, class_weights=torch.eye(5)[c]).item()
        assert loss == pytest.approx(1 - matrix.iou[c].item(), abs=1e-6)


@pytest.mark.parametrize("squared", [False, True])
def test_on_hard_answers_the_losses_equal_torchmetrics_dice_and_jaccard(squared: bool) -> None:
    logits, said, labels = hard_answers(0)
    assert labels[labels != VOID].unique().tolist() == [0, 1, 2, 3]
    options = {"num_classes": 5, "average": "none", "ignore_index": VOID}
    dice = multiclass_f1_score(said, labels, **options)[:4].mean()
    jaccard = multiclass_jaccard_index(said, labels, **options)[:4].mean()
    torch.testing.assert_close(dice_loss(logits, labels, squared=squared), 1 - dice)
    torch.testing.assert_close(lovasz_softmax(logits, labels), 1 - jaccard)


# soft answers ---------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), void_share=st.sampled_from([0, 0.3, 0.9]))
def test_soft_dice_equals_smps(seed: int, void_share: float) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, labels = batch(seed=seed, void_share=void_share)
    labels[labels == 4] = 0  # a class without pixels: a 0 in their mean over all classes, not in ours
    present = len(labels[labels != VOID].unique())
    theirs = smp.DiceLoss("multiclass", ignore_index=VOID)(logits, labels) * 5 / max(present, 1)
    torch.testing.assert_close(dice_loss(logits, labels), theirs, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), void_share=st.sampled_from([0, 0.3, 0.9]), per_image=st.booleans())
def test_lovasz_softmax_and_its_gradient_equal_smps(seed: int, void_share: float, per_image: bool) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, labels = batch(seed=seed, void_share=void_share)
    labels[:, 0, 0] = torch.tensor([0, 3])  # theirs fails on a picture of void
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = lovasz_softmax(ours, labels, per_image=per_image)
    expected = smp.LovaszLoss("multiclass", per_image=per_image, ignore_index=VOID)(theirs, labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), squared=st.booleans(), epsilon=st.floats(1e-6, 2))
def test_soft_dice_is_the_formula(seed: int, squared: bool, epsilon: float) -> None:
    logits, labels = batch(seed=seed, dtype=torch.float64)
    valid = labels != VOID
    scores = []
    for c in labels[valid].unique().tolist():
        p, g = logits.softmax(dim=1)[:, c][valid], (labels[valid] == c).double()
        below = (p**2).sum() + (g**2).sum() if squared else p.sum() + g.sum()
        scores.append(1 - (2 * (p * g).sum() + epsilon) / (below + epsilon))
    torch.testing.assert_close(dice_loss(logits, labels, squared=squared, epsilon=epsilon), sum(scores) / len(scores))


def test_1_minus_d_and_minus_d_have_one_gradient() -> None:
    logits, labels = batch(dtype=torch.float64)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    dice_loss(ours, labels, class_weights=torch.eye(5)[2]).backward()
    valid = labels != VOID
    p, g = theirs.softmax(dim=1)[:, 2] * valid, labels == 2
    minus_d = -(2 * (p * g).sum() + 1e-6) / (p.sum() + g.sum() + 1e-6)
    assert -1 <= minus_d.item() <= 0
    minus_d.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_lovasz_extension_is_convex_in_the_errors_and_runs_from_0_to_1() -> None:
    labels = torch.tensor([[[0, 1, 1, 0, 1, 0]]])
    generator = torch.Generator().manual_seed(0)
    only_1 = torch.tensor([0.0, 1])

    def of(p: torch.Tensor) -> torch.Tensor:
        return lovasz_softmax(torch.stack([1 - p, p]).log()[None, :, None], labels, class_weights=only_1)

    for _ in range(50):
        p, q = torch.rand(2, 6, generator=generator) * 0.98 + 0.01
        assert 0 <= of(p) <= 1
        assert of((p + q) / 2) <= (of(p) + of(q)) / 2 + 1e-6


def test_gains_keep_their_digits_in_a_million_pixels() -> None:
    labels = torch.zeros(1, 1000, 1000).long()
    labels[:, :, 500:] = 1
    logits = torch.zeros(1, 2, 1000, 1000, requires_grad=True)
    with torch.no_grad():
        logits[:, 0] = torch.rand(1000, 1000, generator=torch.Generator().manual_seed(0))
    lovasz_softmax(logits, labels).backward()
    exact = logits.detach().double().requires_grad_()
    lovasz_softmax(exact, labels).backward()
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-2, atol=1e-10)


# classes that are not there -------------------------------------------------------------------------------------


@overlap_loss
def test_class_that_no_label_holds_is_left_out_of_the_mean(loss) -> None:
    logits, labels = batch()
    labels[labels == 4] = 0
    present = [loss(logits, labels, class_weights=torch.eye(5)[c]) for c in range(4)]
    torch.testing.assert_close(loss(logits, labels), torch.stack(present).mean())
    assert loss(logits, labels, class_weights=torch.eye(5)[4]).item() == 0


def test_with_all_classes_an_absent_one_costs_what_is_predicted_of_it() -> None:
    logits, labels = batch(dtype=torch.float64)
    labels[labels == 4] = 0
    p = logits.softmax(dim=1)[:, 4][labels != VOID]
    only_4 = {"classes": "all", "class_weights": torch.eye(5)[4]}
    torch.testing.assert_close(lovasz_softmax(logits, labels, **only_4), p.max())
    torch.testing.assert_close(dice_loss(logits, labels, epsilon=1.0, **only_4), 1 - 1 / (p.sum() + 1))


@overlap_loss
@pytest.mark.parametrize("classes", ["present", "all"])
def test_empty_masks_that_are_predicted_empty_cost_nothing_and_give_no_nan(loss, classes: str) -> None:
    labels = torch.zeros(1, 4, 4).long()
    logits = one_hot_logits(labels, 3).requires_grad_()
    value = loss(logits, labels, classes=classes)
    value.backward()
    assert value.item() == 0
    assert logits.grad.isfinite().all()


@overlap_loss
def test_rare_class_weighs_as_much_as_a_common_one(loss) -> None:
    labels = torch.zeros(1, 10, 10).long()
    labels[0, 0, 0] = 1
    all_background = one_hot_logits(torch.zeros_like(labels), 2)
    assert loss(all_background, labels).item() == pytest.approx(0.5, abs=0.01)


def test_each_picture_counts_alike_with_per_image_and_void_ones_not_at_all() -> None:
    logits, labels = batch(size=(3, 6, 7))
    labels[1] = VOID
    single = [lovasz_softmax(logits[[n]], labels[[n]]) for n in (0, 2)]
    torch.testing.assert_close(lovasz_softmax(logits, labels, per_image=True), sum(single) / 2)
    assert lovasz_softmax(logits, labels).item() != pytest.approx((sum(single) / 2).item(), rel=1e-3)


# options --------------------------------------------------------------------------------------------------------


@overlap_loss
def test_another_word_for_classes_is_refused(loss) -> None:
    with pytest.raises(ValueError, match=r"classes='absent': allowed are 'present'.*'all'"):
        loss(*batch(), classes="absent")


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_epsilon_that_is_not_above_0_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match=r"epsilon=.*allowed are numbers above 0.*0/0"):
        dice_loss(*batch(), epsilon=epsilon)
