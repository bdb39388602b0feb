"""Median frequency weights: the articles' definition, from label maps or from counts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_lesson.losses import median_frequency_weights, median_frequency_weights_from_counts

VOID = 255


def test_weights_of_pictures_that_can_be_counted_by_hand() -> None:
    labels = [
        torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1]]),  # 8 valid pixels, 6 and 2
        torch.tensor([[0, 0, 2, VOID], [0, 0, VOID, VOID]]),  # 5 valid pixels, 4 and 1
    ]
    frequencies = [10 / 13, 2 / 8, 1 / 5]  # of the pictures that hold the class
    expected = [frequencies[1] / f for f in frequencies]
    np.testing.assert_allclose(median_frequency_weights(labels, 3), expected, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(1, 7))
def test_weights_equal_numpys_on_random_label_maps(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    maps = [rng.integers(0, rng.integers(1, classes + 1), rng.integers(1, 9, 2)).astype(np.uint8) for _ in range(4)]
    maps[3][:] = VOID
    frequencies = np.full(classes, np.nan)
    for c in range(classes):
        holding = [m for m in maps if (m == c).any()]
        if holding:
            frequencies[c] = sum((m == c).sum() for m in holding) / sum(m.size for m in holding)
    expected = np.nan_to_num(np.nanmedian(frequencies) / frequencies, nan=1.0)
    for form in (maps, iter(maps), [torch.from_numpy(m).long() for m in maps]):
        weights = median_frequency_weights(form, classes)
        assert weights.dtype == torch.float32
        np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_one_tensor_of_label_maps_is_read_map_by_map() -> None:
    labels = torch.randint(0, 3, (5, 4, 6), generator=torch.Generator().manual_seed(0))
    assert torch.equal(median_frequency_weights(labels, 3), median_frequency_weights(list(labels), 3))


def test_counts_alone_take_every_picture_as_holding_every_class() -> None:
    weights = median_frequency_weights_from_counts(torch.tensor([70, 20, 10]))
    np.testing.assert_allclose(weights, [20 / 70, 1, 2], rtol=1e-6)
    both = median_frequency_weights_from_counts(torch.tensor([70, 20, 10]), torch.tensor([100, 80, 20]))
    np.testing.assert_allclose(both, [0.5 / 0.7, 0.5 / 0.25, 1], rtol=1e-6)  # frequencies 0.7, 0.25, 0.5, median 0.5


def test_even_number_of_classes_takes_the_mean_of_the_middle_two() -> None:
    weights = median_frequency_weights_from_counts(torch.tensor([4, 3, 2, 1]))
    np.testing.assert_allclose(weights, [2.5 / 4, 2.5 / 3, 2.5 / 2, 2.5], rtol=1e-6)


def test_class_without_pixels_gets_1_and_does_not_move_the_median() -> None:
    weights = median_frequency_weights_from_counts(torch.tensor([70, 20, 10, 0, 0]))
    np.testing.assert_allclose(weights, [20 / 70, 1, 2, 1, 1], rtol=1e-6)


def test_class_of_equal_size_everywhere_has_weight_1() -> None:
    assert torch.equal(median_frequency_weights_from_counts(torch.full((4,), 7)), torch.ones(4))


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([torch.tensor([[0, 3]])], ValueError, r"ids \[3\]: allowed are 0 to 2 and 255 \(void\)"),
        ([np.array([[-1, 0]])], ValueError, r"ids \[-1\]"),
        ([torch.zeros(2, 2)], TypeError, r"label map is torch\.float32: allowed are integers"),
        ([torch.zeros(2, 2).bool()], TypeError, r"torch\.bool"),
        ([torch.full((2, 2), VOID)], ValueError, r"not all 0 \(is every label void\?\)"),
        ([], ValueError, r"not all 0"),
    ],
)
def test_bad_label_maps_are_refused(labels: list[object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        median_frequency_weights(labels, 3)


@pytest.mark.parametrize(
    ("pixels", "image_pixels", "message"),
    [
        (torch.ones(2, 3), None, r"pixels are \[2, 3\]: allowed is \[C\]"),
        (torch.ones(3), torch.ones(2), r"pixels are \[3\] and image_pixels \[2\]"),
        (torch.tensor([1, -1]), None, r"pixels are \[1\.0, -1\.0\].*counts from 0"),
        (torch.tensor([1, torch.nan]), None, r"nan.*counts from 0"),
        (torch.tensor([5, 1]), torch.tensor([4, 4]), r"none above the pixels of the pictures"),
        (torch.zeros(2), None, r"not all 0"),
    ],
)
def test_bad_counts_are_refused(pixels: torch.Tensor, image_pixels: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        median_frequency_weights_from_counts(pixels, image_pixels)
