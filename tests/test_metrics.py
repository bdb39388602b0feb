"""Scores equal independent computations: torchmetrics', scipy's, and those done by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from deeplab_lesson.data import Scenes
from deeplab_lesson.metrics import TRIMAP_WIDTHS, ConfusionMatrix, TrimapIoU, trimap_band, trimap_iou

VOID = 255
CLASSES = 6


def random_pictures(seed: int, classes: int = CLASSES) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and labels [3, 20, 30] with void; class 4 is only predicted, class 5 does not occur."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes - 2, (3, 20, 30), generator=generator)
    right = torch.rand(labels.shape, generator=generator) < 0.6
    predictions = torch.where(right, labels, torch.randint(0, classes - 1, labels.shape, generator=generator))
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = VOID
    return predictions, labels


def filled(predictions: torch.Tensor, labels: torch.Tensor, classes: int = CLASSES) -> ConfusionMatrix:
    matrix = ConfusionMatrix(classes)
    matrix.update(predictions, labels)
    return matrix


@pytest.mark.parametrize("seed", range(3))
def test_counts_iou_and_accuracies_equal_torchmetrics(seed: int) -> None:
    predictions, labels = random_pictures(seed)
    matrix = filled(predictions, labels)
    settings_ = {"num_classes": CLASSES, "ignore_index": VOID}
    assert torch.equal(matrix.counts, MulticlassConfusionMatrix(**settings_)(predictions, labels))
    theirs = MulticlassJaccardIndex(**settings_, average="none")(predictions, labels)
    occurs = ~matrix.iou.isnan()
    assert occurs.tolist() == [True] * 5 + [False]
    torch.testing.assert_close(matrix.iou[occurs].float(), theirs[occurs])
    micro = MulticlassAccuracy(**settings_, average="micro")(predictions, labels)
    assert matrix.pixel_accuracy == pytest.approx(micro.item())
    by_class = MulticlassAccuracy(**settings_, average="none")(predictions, labels)
    assert matrix.mean_accuracy == pytest.approx(by_class[:4].mean().item()), "the mean is over the true classes"


def test_class_that_is_only_predicted_counts_as_0_and_one_that_does_not_occur_not_at_all() -> None:
    matrix = filled(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 1]]), classes=4)
    np.testing.assert_array_equal(matrix.iou, [1, 0.5, 0, math.nan])
    assert matrix.mean_iou == pytest.approx(0.5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), first=st.integers(1, 2))
def test_batches_add_up(seed: int, first: int) -> None:
    predictions, labels = random_pictures(seed)
    whole, parts = filled(predictions, labels), ConfusionMatrix(CLASSES)
    for part in (slice(0, first), slice(first, None)):
        parts.update(predictions[part], labels[part])
    assert torch.equal(parts.counts, whole.counts)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(CLASSES)))
def test_renaming_the_classes_renames_the_iou(seed: int, order: list[int]) -> None:
    predictions, labels = random_pictures(seed)
    names = torch.arange(256)
    names[:CLASSES] = torch.tensor(order)
    renamed = filled(names[predictions], names[labels])
    np.testing.assert_allclose(renamed.iou[order], filled(predictions, labels).iou)


def test_fcns_four_metrics_on_a_worked_example() -> None:
    """Ten pixels; rows are the truth: [[4, 1, 0], [2, 1, 0], [0, 0, 2]]."""
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    predictions = torch.tensor([0, 0, 0, 0, 1, 0, 0, 1, 2, 2])
    matrix = filled(predictions, labels, classes=3)
    assert matrix.counts.tolist() == [[4, 1, 0], [2, 1, 0], [0, 0, 2]]
    np.testing.assert_allclose(matrix.iou, [4 / 7, 1 / 4, 1])
    assert matrix.pixel_accuracy == pytest.approx(7 / 10)
    assert matrix.mean_accuracy == pytest.approx((4 / 5 + 1 / 3 + 1) / 3)
    assert matrix.mean_iou == pytest.approx((4 / 7 + 1 / 4 + 1) / 3)
    assert matrix.frequency_weighted_iou == pytest.approx(0.5 * 4 / 7 + 0.3 / 4 + 0.2)


def test_answering_background_everywhere_is_99_percent_right_and_half_an_iou() -> None:
    labels = torch.zeros(100, 100, dtype=torch.int64)
    labels[:10, :10] = 1
    matrix = filled(torch.zeros_like(labels), labels, classes=2)
    assert matrix.pixel_accuracy == pytest.approx(0.99)
    assert matrix.mean_iou == pytest.approx(0.495)


def test_void_pixels_change_no_score_whatever_is_predicted_there() -> None:
    predictions, labels = random_pictures(0)
    other = torch.where(labels == VOID, 200, predictions)  # not even a class
    assert torch.equal(filled(other, labels).counts, filled(predictions, labels).counts)


def test_where_restricts_the_count() -> None:
    predictions, labels = random_pictures(1)
    where = torch.rand(labels.shape) < 0.5
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(predictions, labels, where=where)
    assert torch.equal(matrix.counts, filled(predictions, torch.where(where, labels, VOID)).counts)


def test_labels_and_predictions_may_be_uint8() -> None:
    predictions, labels = random_pictures(2)
    assert torch.equal(filled(predictions.byte(), labels.byte()).counts, filled(predictions, labels).counts)


@pytest.mark.parametrize(
    ("predictions", "labels", "kind", "message"),
    [
        (torch.zeros(1, 3, 4, 4).long(), torch.zeros(1, 4, 4).long(), ValueError, r"\[1, 3, 4, 4\].*argmax\(dim=1\)"),
        (torch.zeros(4, 4), torch.zeros(4, 4).long(), TypeError, r"float32.*argmax\(dim=1\)"),
        (torch.tensor([0, 3]), torch.tensor([0, 1]), ValueError, r"predictions hold the ids \[3\].*0 to 2;"),
        (torch.tensor([0, 255]), torch.tensor([0, 1]), ValueError, r"predictions hold the ids \[255\].*0 to 2;"),
        (torch.tensor([0, 1]), torch.tensor([0, 7]), ValueError, r"labels hold the ids \[7\].*0 to 2 and 255 \(void\)"),
        (torch.tensor([0, 1]), torch.tensor([0, -1]), ValueError, r"labels hold the ids \[-1\]"),
    ],
)
def test_bad_input_is_refused(predictions, labels, kind, message: str) -> None:
    with pytest.raises(kind, match=message):
        filled(predictions, labels, classes=3)


def test_where_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        ConfusionMatrix(2).update(torch.zeros(2, 2).long(), torch.zeros(2, 2).long(), where=torch.ones(2).bool())


# ---- near boundaries ---------------------------------------------------------------------------------------


def band_by_distance(labels: np.ndarray, width: int) -> np.ndarray:
    """A pixel is in the band if another label lies within the chessboard distance: one distance map a label."""
    band = np.zeros(labels.shape, dtype=bool)
    for value in np.unique(labels):
        if (labels != value).any():
            distance = ndimage.distance_transform_cdt(labels == value, metric="chessboard")
            band |= (labels == value) & (distance <= width)
    return band


def band_by_dilation(labels: np.ndarray, width: int) -> np.ndarray:
    size = (2 * width + 1, 2 * width + 1)
    highest = ndimage.grey_dilation(labels, size, mode="nearest")
    return highest != ndimage.grey_erosion(labels, size, mode="nearest")


@pytest.mark.parametrize("width", [1, 2, 3, 8, 40])
def test_trimap_band_equals_scipys_distances_and_dilations(width: int) -> None:
    blobs = np.random.default_rng(0).integers(0, 4, (6, 7)).repeat(9, 0).repeat(8, 1)
    for labels in (blobs, Scenes("val", (60, 80), length=1)[0][1].astype(np.int64)):
        band = trimap_band(torch.from_numpy(labels)[None], width)
        assert band.dtype == torch.bool
        np.testing.assert_array_equal(band[0].numpy(), band_by_distance(labels, width))
        np.testing.assert_array_equal(band[0].numpy(), band_by_dilation(labels, width))
        assert torch.equal(trimap_band(torch.from_numpy(labels), width), band[0]), "one picture without its batch"


def test_voids_contour_is_a_boundary() -> None:
    labels = torch.zeros(1, 9, 9, dtype=torch.int64)
    labels[:, 4, 4] = VOID
    assert trimap_band(labels, 1).sum() == 9


def test_pictures_of_a_batch_do_not_touch() -> None:
    labels = torch.stack([torch.zeros(5, 5), torch.ones(5, 5)]).long()
    assert not trimap_band(labels, 3).any()


@pytest.mark.parametrize("width", [0, -1])
def test_band_without_width_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"width is {width}: allowed are whole numbers"):
        trimap_band(torch.zeros(1, 4, 4).long(), width)


def test_band_wider_than_the_picture_gives_the_plain_mean_iou() -> None:
    predictions, labels = random_pictures(3)
    plain = filled(predictions, labels).mean_iou
    assert trimap_iou(predictions, labels, CLASSES, widths=[100])[100] == pytest.approx(plain, abs=1e-12)


def test_trimap_scores_only_the_band() -> None:
    labels = torch.zeros(1, 20, 20, dtype=torch.int64)
    labels[:, :, 10:] = 1
    predictions = labels.clone()
    predictions[:, :, :5] = 1  # wrong, five pixels away from the boundary
    scores = trimap_iou(predictions, labels, 2, widths=[1, 5, 6])
    assert scores[1] == scores[5] == 1
    assert scores[6] == pytest.approx((5 / 6 + 6 / 7) / 2)


def test_trimap_adds_up_over_pictures_and_has_its_widths() -> None:
    predictions, labels = random_pictures(4)
    trimap = TrimapIoU(CLASSES)
    for index in range(3):
        trimap.update(predictions[index : index + 1], labels[index : index + 1])
    assert trimap.mean_iou == pytest.approx(trimap_iou(predictions, labels, CLASSES))
    assert tuple(trimap.mean_iou) == TRIMAP_WIDTHS
