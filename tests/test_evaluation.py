"""Scoring a set: every picture counts once, as the model labels it with one look, with several, with the CRF."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_models import BlurredTruth, Pixelwise

from deeplab_lesson.crf import PRESETS, mean_field
from deeplab_lesson.data import Scenes, normalize
from deeplab_lesson.inference import predict, predict_multiscale
from deeplab_lesson.metrics import ConfusionMatrix
from deeplab_lesson.training.checkpoint import load_checkpoint
from deeplab_lesson.training.evaluation import Evaluation, evaluate

LOOKS = (0.875, 1, 1.25)


@pytest.fixture(scope="module")
def model(checkpoint: Path):
    return load_checkpoint(checkpoint)[0]


# ---- one look ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_scores_do_not_depend_on_the_batches_and_count_every_picture(model, batch_size: int) -> None:
    dataset = Scenes("val", (40, 56), length=5)
    scores = evaluate(model, dataset, batch_size=batch_size)
    right = valid = 0
    for image, label in (dataset[index] for index in range(5)):
        right += int((predict(model, image) == label)[label != 255].sum())
        valid += int((label != 255).sum())
    assert scores.pictures == 5
    assert scores.pixel_accuracy == pytest.approx(right / valid, abs=2e-3)  # batches round a few ties another way
    assert list(scores.iou) == list(dataset.classes)


def test_scores_survive_json_and_absent_classes_are_none(model) -> None:
    scores = evaluate(model, Scenes("val", (40, 56), length=1))
    assert None in scores.iou.values()
    assert Evaluation.from_json(scores.to_json()) == scores
    assert Evaluation.from_json(None) is None
    absent = next(name for name, value in scores.iou.items() if value is None)
    assert any(line.split() == [absent, "-"] for line in str(scores).splitlines())


class Plain(Scenes):
    """Scenes whose labels are one id everywhere."""

    value = 0

    def read(self, index: int):
        image, label = super().read(index)[:2]
        return image, np.full_like(label, self.value)


def test_set_without_boundaries_has_no_score_near_them(model) -> None:
    scores = evaluate(model, Plain("val", (40, 56), length=1))
    assert set(scores.trimap_mean_iou.values()) == {None}
    assert "1 px -, 2 px -" in str(scores)


def test_set_of_void_cannot_be_scored(model) -> None:
    dataset = Plain("val", (40, 56), length=2)
    dataset.value = 255
    with pytest.raises(ValueError, match=r"every pixel of the 2 pictures is void.*check the labels"):
        evaluate(model, dataset)


def test_evaluation_names_the_picture_that_the_model_refuses(model) -> None:
    class Small(Scenes):
        def read(self, index: int):
            image, label = super().read(index)[:2]
            return (image, label) if index < 2 else (image[:20], label[:20])

    with pytest.raises(ValueError, match=r"picture val_00002: images are 20x56.*at least 33"):
        evaluate(model, Small("val", (40, 56), length=4))


def test_evaluation_gives_every_part_its_mode_back(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint)[0].train()
    model.backbone.eval()
    modes = [part.training for part in model.modules()]
    evaluate(model, Scenes("val", (40, 56), length=1))
    assert [part.training for part in model.modules()] == modes


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": -1}])
def test_evaluation_refuses_impossible_settings(model, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="allowed are a batch from 1, workers from 0"):
        evaluate(model, Scenes("val", (40, 56), length=1), **options)


def test_evaluation_refuses_another_number_of_classes(model) -> None:
    dataset = Scenes("val", (40, 56), length=1)
    dataset.classes = ("sky", "road")
    with pytest.raises(ValueError, match=r"model has 11 classes and the data 2 \(sky, road\)"):
        evaluate(model, dataset)


def test_default_scores_are_those_of_the_argmax_of_the_logits_to_the_last_pixel(model) -> None:
    dataset = Scenes("val", (40, 56), length=3)
    matrix = ConfusionMatrix(11)
    with torch.inference_mode():
        images, labels = zip(*(dataset.read(index) for index in range(3)), strict=True)
        logits = model(torch.stack([normalize(image) for image in images]))
        matrix.update(logits.argmax(1), torch.from_numpy(np.stack(labels)))
    scores = evaluate(model, dataset)
    assert (scores.mean_iou, scores.pixel_accuracy) == (matrix.mean_iou, matrix.pixel_accuracy)


# ---- several looks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_over_scales_and_flip_are_those_of_predict_multiscale(model, batch_size: int) -> None:
    dataset = Scenes("val", (40, 56), length=3)
    matrix = ConfusionMatrix(11)
    for image, label in (dataset.read(index) for index in range(3)):
        labels = predict_multiscale(model, image, LOOKS, flip=True)
        matrix.update(torch.from_numpy(labels), torch.from_numpy(label))
    scores = evaluate(model, dataset, scales=LOOKS, flip=True, batch_size=batch_size)
    assert scores.pixel_accuracy == pytest.approx(matrix.pixel_accuracy, abs=3e-4)  # two pixels: batches round ties
    for fewer in ({"scales": LOOKS}, {"flip": True}, {}):
        other = evaluate(model, dataset, **fewer, batch_size=batch_size)
        assert other.pixel_accuracy != pytest.approx(scores.pixel_accuracy, abs=1e-3)


def test_picture_too_small_for_a_scale_is_named(model) -> None:
    with pytest.raises(ValueError, match=r"picture val_00000: at scale 0\.5 an image of 40x56.*leave out scales below"):
        evaluate(model, Scenes("val", (40, 56), length=2), scales=(0.5, 1))


def test_impossible_scales_and_parameters_are_refused_before_a_picture_is_read(model) -> None:
    class Unread(Scenes):
        def read(self, index: int):
            raise AssertionError("was read")

    with pytest.raises(ValueError, match=r"scales=\(0\.0,\): allowed are"):
        evaluate(model, Unread("val"), scales=(0,))
    with pytest.raises(ValueError, match=r"'deeplab_v3': did you mean deeplab_v"):
        evaluate(model, Unread("val"), crf="deeplab_v3")


# ---- the CRF -----------------------------------------------------------------------------------------------


def test_crf_without_weight_changes_no_score(model) -> None:
    dataset = Scenes("val", (40, 56), length=2)
    idle = {**PRESETS["deeplab_v1"], "appearance_weight": 0, "smoothness_weight": 0}
    assert evaluate(model, dataset, crf=idle).pixel_accuracy == pytest.approx(
        evaluate(model, dataset).pixel_accuracy, abs=1e-3
    )
    for name, value in evaluate(model, dataset, crf=idle, scales=LOOKS).iou.items():
        assert value == pytest.approx(evaluate(model, dataset, scales=LOOKS).iou[name], abs=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_scores_with_the_crf_are_those_of_mean_field_on_the_logits_and_the_picture_itself(batch_size: int) -> None:
    dataset, model, matrix = Scenes("val", (40, 56), length=2), Pixelwise(11), ConfusionMatrix(11)
    for image, label in (dataset.read(index) for index in range(2)):
        picture = torch.from_numpy(image).permute(2, 0, 1)[None]  # 0 to 255
        with torch.no_grad():
            marginals = mean_field(model(normalize(image)[None]), picture, **PRESETS["krahenbuhl2011"])
        matrix.update(marginals.argmax(1), torch.from_numpy(label)[None])
    scores = evaluate(model, dataset, crf="krahenbuhl2011", batch_size=batch_size)
    assert scores.mean_iou == pytest.approx(matrix.mean_iou, abs=1e-3)
    assert scores.mean_iou != evaluate(model, dataset).mean_iou


def test_crf_mends_the_edges_of_answers_that_are_right_and_blurred() -> None:
    dataset = Scenes("val", (96, 96), length=6)
    model = BlurredTruth(dataset)
    near = {"appearance_weight": 3, "appearance_sigma_xy": 8, "appearance_sigma_rgb": 13, "smoothness_weight": 0}
    before, after = evaluate(model, dataset), evaluate(model, dataset, crf=near)
    assert after.trimap_mean_iou[1] > before.trimap_mean_iou[1] + 0.05
    assert after.trimap_mean_iou[1] - before.trimap_mean_iou[1] > after.mean_iou - before.mean_iou > 0


def test_penalties_for_other_classes_are_refused_with_the_picture() -> None:
    potts = 1 - torch.eye(3)
    with pytest.raises(ValueError, match=r"picture val_00000: compatibility is \[3, 3\] and there are 11 classes"):
        evaluate(Pixelwise(11), Scenes("val", (40, 56), length=1), crf={"compatibility": potts})


def test_crf_of_a_model_with_one_class_is_refused() -> None:
    dataset = Scenes("val", (40, 56), length=1)
    dataset.classes = ("everything",)
    with pytest.raises(ValueError, match="allowed are two classes or more"):
        evaluate(Pixelwise(1), dataset, crf="deeplab_v1")
