"""The loss is torch's, with void left out, the mean over what is left, and no nan where nothing is left."""

import math

import pytest
import torch
from torch.nn import functional as F

from deeplab_lesson.losses import cross_entropy

VOID = 255


def batch(dtype: torch.dtype = torch.float32, void_share: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 5, 6, 7, generator=generator, dtype=dtype)
    labels = torch.randint(0, 5, (2, 6, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < void_share] = VOID
    return logits, labels


@pytest.mark.parametrize("weights", [None, torch.tensor([0.2, 1, 3, 0, 0.5])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_equal_torchs(dtype: torch.dtype, weights: torch.Tensor | None) -> None:
    logits, labels = batch(dtype)
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
    valid = labels != VOID
    chosen = logits.softmax(dim=1).permute(0, 2, 3, 1)[valid].gather(1, labels[valid][:, None])
    assert cross_entropy(logits, labels).item() == pytest.approx(-chosen.log().mean().item(), rel=1e-5)


def test_logits_under_void_get_no_gradient_and_change_nothing() -> None:
    logits, labels = batch()
    logits.requires_grad_()
    cross_entropy(logits, labels).backward()
    void = (labels == VOID)[:, None].expand_as(logits)
    assert (logits.grad[void] == 0).all()
    assert (logits.grad[~void] != 0).any()
    changed = torch.where(void, 100.0, logits.detach())
    torch.testing.assert_close(cross_entropy(changed, labels), cross_entropy(logits.detach(), labels))


@pytest.mark.parametrize("weights", [None, torch.ones(5)])
def test_all_void_batch_gives_0_with_a_zero_gradient(weights: torch.Tensor | None) -> None:
    logits, labels = batch()
    logits.requires_grad_()
    loss = cross_entropy(logits, torch.full_like(labels, VOID), class_weights=weights)
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_equals_finite_differences(weighted: bool) -> None:
    logits, labels = batch(torch.float64)
    weights = torch.tensor([0.2, 1, 3, 1, 0.5]).double() if weighted else None
    small = logits[:1, :, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, labels[:1, :3, :3], class_weights=weights), small)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits, labels = batch()
    half = logits.to(dtype)
    weights = torch.tensor([0.1, 0.7, 1, 1, 1])
    loss = cross_entropy(half, labels, class_weights=weights)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(half.float(), labels, class_weights=weights))


def test_under_bfloat16_autocast_the_result_is_the_float32_one() -> None:
    logits, labels = batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, cross_entropy(logits, labels))


def test_probability_of_one_fifth_costs_1_609() -> None:
    loss = cross_entropy(torch.zeros(1, 5, 2, 2), torch.tensor([[[0, 1], [4, VOID]]]))
    assert loss.item() == pytest.approx(math.log(5))
    assert round(loss.item(), 3) == 1.609


def test_another_void_label_may_be_named() -> None:
    logits, labels = batch()
    moved = torch.where(labels == VOID, -100, labels)
    torch.testing.assert_close(cross_entropy(logits, moved, void=-100), cross_entropy(logits, labels))


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (torch.zeros(2, 3, 7).long(), ValueError, r"\[2, 5, 6, 7\].*\[2, 3, 7\].*resize_features"),
        (torch.zeros(2, 1, 6, 7).long(), ValueError, r"\[2, 1, 6, 7\].*\[N, H, W\]"),
        (torch.zeros(2, 6, 7).byte(), TypeError, r"uint8.*labels\.long\(\)"),
        (torch.full((2, 6, 7), 5), ValueError, r"ids \[5\].*0 to 4 and 255 \(void\).*5 channels"),
        (torch.full((2, 6, 7), -1), ValueError, r"ids \[-1\]"),
    ],
)
def test_bad_labels_are_refused(labels: torch.Tensor, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        cross_entropy(batch()[0], labels)
