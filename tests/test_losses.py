"""What holds for every loss: void counts nowhere, nothing becomes nan, and inputs that do not fit are refused."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_batches import EVERY, OVERLAP, PIXELWISE, VOID, WEIGHTED, batch, channels_of, classes_of

from deeplab_lesson.losses import (
    LOSSES,
    binary_cross_entropy,
    count_valid_pixels,
    cross_entropy,
    edge_loss,
    lovasz_softmax,
    ohem_cross_entropy,
)

every_loss = pytest.mark.parametrize("loss", EVERY)
weighted_loss = pytest.mark.parametrize("loss", WEIGHTED)
pixelwise_loss = pytest.mark.parametrize("loss", PIXELWISE)


def some_weights(loss: object) -> torch.Tensor:
    return torch.tensor([0.2, 1, 3, 0.7, 0.5])[: classes_of(loss)]


def test_every_loss_has_a_name_and_one_line_of_description() -> None:
    assert [function for function, _ in LOSSES.values()] == EVERY
    assert list(LOSSES) == [
        "cross_entropy", "ohem_cross_entropy", "focal", "binary_cross_entropy", "dice", "lovasz_softmax", "edge",
    ]  # fmt: skip
    for _, line in LOSSES.values():
        assert "\n" not in line
        assert 20 < len(line) < 100


# void -----------------------------------------------------------------------------------------------------------


@every_loss
def test_logits_under_void_get_no_gradient_and_change_nothing(loss) -> None:
    logits, labels = batch(channels_of(loss))
    logits.requires_grad_()
    loss(logits, labels).backward()
    void = (labels == VOID)[:, None].expand_as(logits)
    assert (logits.grad[void] == 0).all()
    assert (logits.grad[~void] != 0).any()
    other = 100 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(7))
    changed = torch.where(void, other, logits.detach())
    torch.testing.assert_close(loss(changed, labels), loss(logits.detach(), labels), rtol=1e-6, atol=0)


def calls_of(loss) -> list[dict[str, object]]:
    """The loss in every form that has its own path through the code."""
    calls: list[dict[str, object]] = [{}]
    if loss in WEIGHTED:
        calls.append({"class_weights": some_weights(loss)})
    if loss in PIXELWISE:
        calls += [{"valid_pixels": torch.tensor(0.0)}, {"valid_pixels": torch.tensor(9.0)}]
    if loss in OVERLAP:
        calls.append({"classes": "all"})
    if loss is lovasz_softmax:
        calls += [{"per_image": True}, {"per_image": True, "classes": "all"}]
    if loss is edge_loss:
        calls += [{"criterion": "squared"}, {"reduction": "sum"}, {"distance": 1}, {"distance": 99}]
    return calls


EVERY_CALL = pytest.mark.parametrize(
    ("loss", "options"), [(loss, options) for loss in EVERY for options in calls_of(loss)]
)


@EVERY_CALL
def test_all_void_batch_gives_0_with_a_zero_gradient(loss, options) -> None:
    logits, labels = batch(channels_of(loss))
    logits.requires_grad_()
    value = loss(logits, torch.full_like(labels, VOID), **options)
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@every_loss
def test_another_void_label_may_be_named(loss) -> None:
    logits, labels = batch(channels_of(loss))
    for void in (-100, 254):
        moved = torch.where(labels == VOID, void, labels)
        assert torch.equal(loss(logits, moved, void=void), loss(logits, labels))
        with pytest.raises(ValueError, match=rf"ids \[{void}\]"):
            loss(logits, moved)


@every_loss
def test_a_class_may_be_the_void_one(loss) -> None:
    logits, labels = batch(channels_of(loss), void_share=0)
    moved = torch.where(labels == 1, VOID, labels)
    assert torch.equal(loss(logits, labels, void=1), loss(logits, moved))


# numbers --------------------------------------------------------------------------------------------------------


@EVERY_CALL
def test_gradient_equals_finite_differences(loss, options) -> None:
    logits, labels = batch(channels_of(loss), (2, 3, 4), dtype=torch.float64)
    logits = (logits / 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, **options), logits)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(loss, dtype: torch.dtype) -> None:
    logits, labels = batch(channels_of(loss))
    half = logits.to(dtype).requires_grad_()
    options = {"class_weights": some_weights(loss)} if loss in WEIGHTED else {}
    value = loss(half, labels, **options)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(half.detach().float(), labels, **options))
    value.backward()
    assert half.grad.dtype == dtype


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_value_and_gradient_are_the_float32_ones(loss, dtype: torch.dtype) -> None:
    logits, labels = batch(channels_of(loss))
    inside, outside = (logits.clone().requires_grad_() for _ in range(2))
    with torch.autocast("cpu", dtype):
        value = loss(inside, labels)
    value.backward()
    expected = loss(outside, labels)
    expected.backward()
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(inside.grad, outside.grad)


@every_loss
def test_float64_stays(loss) -> None:
    assert loss(*batch(channels_of(loss), dtype=torch.float64)).dtype == torch.float64


@EVERY_CALL
@pytest.mark.parametrize("sure_of", ["the right class", "a wrong class"])
def test_extreme_logits_give_finite_values_and_gradients(loss, options, sure_of: str) -> None:
    _, labels = batch(channels_of(loss))
    true = labels.where(labels != VOID, 0)
    said = true if sure_of == "the right class" else (true + 1) % classes_of(loss)
    if loss is binary_cross_entropy:
        logits = torch.where(said == 1, 1e4, -1e4)[:, None]
    else:
        logits = torch.where(said[:, None] == torch.arange(5)[:, None, None], 1e4, -1e4)
    logits = logits.contiguous().requires_grad_()
    value = loss(logits, labels, **options)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    if sure_of == "the right class":
        assert value.item() == pytest.approx(0, abs=1e-6)
    elif loss in PIXELWISE and options.get("valid_pixels") is None:
        assert value.item() == pytest.approx(1e4 if loss is binary_cross_entropy else 2e4)
        assert (logits.grad != 0).any()


@every_loss
def test_inputs_are_left_as_they_were(loss) -> None:
    logits, labels = batch(channels_of(loss))
    before = copy.deepcopy((logits, labels))
    loss(logits, labels)
    assert torch.equal(logits, before[0])
    assert torch.equal(labels, before[1])


# symmetries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", WEIGHTED)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_of_pixels_does_not_matter(loss, seed: int) -> None:
    logits, labels = batch(channels_of(loss), seed=seed)
    order = torch.randperm(labels.numel(), generator=torch.Generator().manual_seed(seed))
    moved = logits.movedim(1, -1).reshape(labels.numel(), -1)[order].reshape(*labels.shape, -1).movedim(-1, 1)
    torch.testing.assert_close(loss(moved, labels.flatten()[order].reshape(labels.shape)), loss(logits, labels))


@pytest.mark.parametrize("loss", [loss for loss in EVERY if loss is not binary_cross_entropy])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_numbers_given_to_the_classes_do_not_matter(loss, seed: int) -> None:
    logits, labels = batch(seed=seed)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    renamed = torch.where(labels == VOID, VOID, order.argsort()[labels.where(labels != VOID, 0)])
    torch.testing.assert_close(loss(logits[:, order], renamed), loss(logits, labels))
    if loss in WEIGHTED:
        weights = some_weights(loss)
        torch.testing.assert_close(
            loss(logits[:, order], renamed, class_weights=weights[order]), loss(logits, labels, class_weights=weights)
        )


# class weights --------------------------------------------------------------------------------------------------


@weighted_loss
def test_equal_class_weights_of_any_size_change_nothing(loss) -> None:
    logits, labels = batch(channels_of(loss))
    for weight in (1, 0.01, 40):
        weights = torch.full((classes_of(loss),), float(weight))
        torch.testing.assert_close(loss(logits, labels, class_weights=weights), loss(logits, labels))


@weighted_loss
def test_class_of_weight_0_counts_as_if_it_were_void(loss) -> None:
    logits, labels = batch(channels_of(loss))
    weights = torch.tensor([1.0, 0, 1, 1, 1])[: classes_of(loss)]
    if loss in PIXELWISE and loss is not ohem_cross_entropy:  # there it changes which pixels are the hardest
        expected = loss(logits, labels.where(labels != 1, VOID))
        torch.testing.assert_close(loss(logits, labels, class_weights=weights), expected)
    if loss in OVERLAP:  # its pixels still are no part of the other classes
        single = [loss(logits, labels, class_weights=row) for row in torch.eye(5)]
        expected = torch.stack(single)[[0, 2, 3, 4]].mean()
        torch.testing.assert_close(loss(logits, labels, class_weights=weights), expected)
    only_1 = torch.where(labels == VOID, VOID, 1)
    assert loss(logits, only_1, class_weights=weights).item() == 0


@weighted_loss
@pytest.mark.parametrize(
    ("weights", "kind", "message"),
    [
        (torch.ones(4), ValueError, r"class_weights are \[4\]: allowed is \[C\]"),
        (torch.ones(1, 5), ValueError, r"class_weights are \[1, 5\]: allowed is \[C\]"),
        (torch.zeros(5), ValueError, r"class_weights are \[0\.0.*not all 0"),
        (torch.tensor([1, -0.5, 1, 1, 1]), ValueError, r"class_weights are \[1\.0, -0\.5.*finite numbers from 0"),
        (torch.tensor([1, torch.nan, 1, 1, 1]), ValueError, r"class_weights are \[1\.0, nan.*finite"),
        (torch.tensor([1, torch.inf, 1, 1, 1]), ValueError, r"class_weights are \[1\.0, inf.*finite"),
        ([1.0] * 5, TypeError, r"class_weights are a list.*torch\.tensor"),
    ],
)
def test_bad_class_weights_are_refused(loss, weights, kind: type[Exception], message: str) -> None:
    classes = classes_of(loss)
    if weights is not None and classes == 2 and len(weights) == 5:
        weights = weights[:2]
    with pytest.raises(kind, match=message.replace("[C\\]", f"[{classes}\\]")):
        loss(*batch(channels_of(loss)), class_weights=weights)


# several processes ----------------------------------------------------------------------------------------------


@pixelwise_loss
@pytest.mark.parametrize("weighted", [False, True])
def test_mean_over_processes_equals_one_process_with_all_pictures(loss, weighted: bool) -> None:
    logits, labels = batch(channels_of(loss), (4, 6, 7))
    labels[0] = VOID
    labels[1, :5] = VOID  # the first process has few pixels
    weights = some_weights(loss) if weighted else None
    options = {"threshold": 1.0, "min_kept": 1.0} if loss is ohem_cross_entropy else {}
    whole, parts = (logits.clone().requires_grad_() for _ in range(2))
    expected = loss(whole, labels, class_weights=weights, **options)
    expected.backward()
    share = sum(count_valid_pixels(part, weights) for part in labels.split(2)) / 2
    for logits_part, labels_part in zip(parts.split(2), labels.split(2), strict=True):
        own = loss(logits_part, labels_part, class_weights=weights, valid_pixels=share, **options)
        (own / 2).backward()  # what DDP does with the gradients
    torch.testing.assert_close(parts.grad, whole.grad)


@pixelwise_loss
@pytest.mark.parametrize("weighted", [False, True])
def test_own_count_as_valid_pixels_changes_nothing(loss, weighted: bool) -> None:
    logits, labels = batch(channels_of(loss))
    weights = some_weights(loss) if weighted else None
    count = count_valid_pixels(labels, weights)
    assert count.dtype == torch.float32
    with_count = loss(logits, labels, class_weights=weights, valid_pixels=count)
    torch.testing.assert_close(with_count, loss(logits, labels, class_weights=weights))
    doubled = loss(logits, labels, class_weights=weights, valid_pixels=2 * count)
    torch.testing.assert_close(2 * doubled, with_count)


def test_valid_pixels_are_counted_without_void_and_with_weights_summed() -> None:
    labels = torch.tensor([[[0, 1, VOID], [2, 1, 9]]])
    assert count_valid_pixels(labels).item() == 5
    assert count_valid_pixels(labels, void=9).item() == 5
    weights = torch.tensor([0.5, 1.0, 10.0])
    assert count_valid_pixels(labels.where(labels != 9, VOID), weights).item() == 0.5 + 1 + 10 + 1
    assert count_valid_pixels(torch.full_like(labels, VOID), weights).item() == 0


# inputs that do not fit -----------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (torch.zeros(2, 3, 7).long(), ValueError, r"\[2, C, 6, 7\].*\[2, 3, 7\].*resize_features"),
        (torch.zeros(2, 1, 6, 7).long(), ValueError, r"\[2, C, 6, 7\].*\[2, 1, 6, 7\].*\[N, H, W\]"),
        (torch.zeros(2, 6, 7).byte(), TypeError, r"uint8.*labels\.long\(\)"),
        (torch.zeros(2, 6, 7), TypeError, r"float32.*int64.*labels\.long\(\)"),
        (torch.full((2, 6, 7), 5), ValueError, r"ids \[5\].*0 to L and 255 \(void\).*C channels"),
        (torch.full((2, 6, 7), -1), ValueError, r"ids \[-1\]"),
    ],
)
def test_bad_labels_are_refused(loss, labels: torch.Tensor, kind: type[Exception], message: str) -> None:
    channels = channels_of(loss)
    message = message.replace("C", str(channels), 1).replace("0 to L", f"0 to {classes_of(loss) - 1}")
    with pytest.raises(kind, match=message):
        loss(batch(channels)[0], labels)


@every_loss
def test_logits_of_another_form_are_refused(loss) -> None:
    logits, labels = batch(channels_of(loss))
    with pytest.raises(TypeError, match=r"logits are torch\.int64: allowed are floats"):
        loss(logits.long(), labels)
    with pytest.raises(ValueError, match=r"logits are \[2, 6, 7\]"):
        loss(logits[:, 0], labels)
    wrong = 5 if loss is binary_cross_entropy else 1
    with pytest.raises(ValueError, match=rf"logits have {wrong} channel\(s\): binary_cross_entropy takes one"):
        loss(batch(wrong)[0], torch.zeros_like(labels))


def test_the_import_path_of_cross_entropy_stays() -> None:
    assert cross_entropy.__module__.startswith("deeplab_lesson.losses")
