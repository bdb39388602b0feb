"""The CRF as a last step: its parameters by name, from a file, from a search; and what it is shown."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from made_models import BlurredTruth, Pixelwise

from deeplab_lesson.crf import PRESETS, CRFParameters, mean_field
from deeplab_lesson.data import Scenes
from deeplab_lesson.inference import predict, predict_multiscale, predict_probabilities, tune_crf
from deeplab_lesson.training.crf_step import as_logits, read_crf, refine, write_crf
from deeplab_lesson.training.evaluation import evaluate

POTTS = [[0.0, 1.0, 1.0], [1.0, 0.0, 0.5], [1.0, 0.5, 0.0]]


def noise(height: int = 40, width: int = 48) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ---- one picture -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crf", ["deeplab_v2_resnet101", PRESETS["deeplab_v1"], CRFParameters(iterations=2)])
def test_crf_gets_the_log_of_the_mean_probabilities_and_the_picture_in_0_to_255(crf) -> None:
    model, image = Pixelwise(4), noise()
    logits = predict_probabilities(model, image, (1, 1.5), flip=True).log()[None]
    picture = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = mean_field(logits, picture, **vars(read_crf(crf))).argmax(1)[0]
    labels = predict_multiscale(model, image, (1, 1.5), flip=True, crf=crf)
    np.testing.assert_array_equal(labels, expected.numpy())
    assert (labels != predict_multiscale(model, image, (1, 1.5), flip=True)).any()


def test_crf_without_weight_changes_no_label() -> None:
    idle = {"appearance_weight": 0, "smoothness_weight": 0}
    labels = predict_multiscale(Pixelwise(4), noise(), (1,), flip=False, crf=idle)
    assert (labels == predict(Pixelwise(4), noise())).mean() > 0.999


def test_probability_that_was_rounded_to_zero_is_no_obstacle() -> None:
    probabilities = torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, 2, 8, 8)
    assert as_logits(probabilities).isfinite().all()
    marginals = refine(probabilities, torch.zeros(1, 3, 8, 8, dtype=torch.uint8), CRFParameters())
    assert (marginals.argmax(1) == 0).all()


# ---- names and files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PRESETS))
def test_preset_by_name_is_the_preset(name: str) -> None:
    assert read_crf(name) == CRFParameters(**PRESETS[name]) == read_crf(PRESETS[name]) == read_crf(read_crf(name))


def test_parameters_survive_a_file(tmp_path: Path) -> None:
    parameters = {"appearance_weight": 2.5, "iterations": 3, "normalization": "after", "compatibility": POTTS}
    write_crf(tmp_path / "new" / "crf.json", parameters, mean_iou=0.5, split="val")
    found = read_crf(tmp_path / "new" / "crf.json")
    assert found.compatibility.tolist() == POTTS
    others = {**asdict(CRFParameters(**{**parameters, "compatibility": None})), "compatibility": found.compatibility}
    assert asdict(found).keys() == others.keys()
    assert all(getattr(found, name) == value for name, value in others.items() if name != "compatibility")
    content = json.loads((tmp_path / "new" / "crf.json").read_text())
    assert (content["mean_iou"], content["split"]) == (0.5, "val")
    assert read_crf(str(tmp_path / "new" / "crf.json")).iterations == 3


def test_penalties_from_a_file_are_used(tmp_path: Path) -> None:
    write_crf(tmp_path / "crf.json", {"compatibility": POTTS})
    labels = predict_multiscale(Pixelwise(3), noise(), (1,), flip=False, crf=tmp_path / "crf.json")
    plain = predict_multiscale(Pixelwise(3), noise(), (1,), flip=False, crf=CRFParameters())
    assert (labels != plain).any()
    with pytest.raises(ValueError, match=r"compatibility is \[3, 3\] and there are 4 classes"):
        predict_multiscale(Pixelwise(4), noise(), (1,), crf=tmp_path / "crf.json")


@pytest.mark.parametrize(
    ("choice", "kind", "message"),
    [
        ("deeplab_v2_resnet", ValueError, r"'deeplab_v2_resnet': did you mean deeplab_v2_resnet101\? allowed are deep"),
        ("yes", ValueError, r"'yes': allowed are deeplab_v1, .*krahenbuhl2011, and \.json files such as `deeplab"),
        ("gone.json", FileNotFoundError, r"gone\.json does not exist: check the name, or search .*tune-crf"),
        ({"appearance_wight": 3}, TypeError, "no parameter 'appearance_wight'; did you mean appearance_weight"),
        ({"appearance_sigma_xy": 0}, ValueError, "appearance_sigma_xy=0: allowed are finite numbers above 0"),
        ({"smoothness_weight": True}, TypeError, "smoothness_weight is True, a bool: allowed are numbers"),
        ({"compatibility": [[0, 1], [1]]}, TypeError, "compatibility is no table of numbers"),
    ],
)
def test_choice_that_means_no_parameters_is_explained(choice, kind, message: str) -> None:
    with pytest.raises(kind, match=message):
        read_crf(choice)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON file .*allowed is"),
        ('{"parameters": {', "is no JSON file"),
        ("[" * 100_000, "is no JSON file"),
        ("[1, 2]", "holds no CRF parameters: allowed is"),
        ("{}", "holds no CRF parameters"),
        ('{"parameters": {}}', "holds no CRF parameters"),
        ('{"appearance_weight": 3}', r'holds no CRF parameters: allowed is \{"parameters"'),
        ('{"parameters": {"appearance_weight": "4"}}', "appearance_weight is '4', a str: allowed are numbers"),
        ('{"parameters": {"appearance_weight": NaN}}', "appearance_weight=nan: allowed are finite"),
        ('{"parameters": {"iterations": 2.5}}', r"iterations=2\.5: allowed are whole numbers"),
        ('{"parameters": {"smoothness": 3}}', "smoothness=3: allowed are 'exact', 'lattice'"),
        ('{"parameters": {"speed": 3}}', "no parameter 'speed'"),
    ],
)
def test_file_that_holds_no_parameters_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "my crf.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_crf(tmp_path / "my crf.json")
    assert str(caught.value).startswith(str(tmp_path / "my crf.json"))


def test_file_of_other_bytes_is_named(tmp_path: Path) -> None:
    (tmp_path / "crf.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"crf\.json is no JSON file"):
        read_crf(tmp_path / "crf.json")


# ---- the search --------------------------------------------------------------------------------------------

GRID = {"appearance_weight": (0, 3), "appearance_sigma_xy": (8,), "appearance_sigma_rgb": (13,)}


def test_what_the_search_finds_is_what_evaluate_scores_with_it(tmp_path: Path) -> None:
    dataset = Scenes("val", (64, 64), length=4)
    model = BlurredTruth(dataset)
    search = tune_crf(model, dataset, grid=GRID, rounds=1, smoothness_weight=0)
    assert search.parameters["appearance_weight"] == 3
    assert search.mean_iou > search.mean_iou_before + 0.02
    write_crf(tmp_path / "crf.json", search.parameters)
    assert search.mean_iou_before == pytest.approx(evaluate(model, dataset).mean_iou, abs=1e-3)
    assert search.mean_iou == pytest.approx(evaluate(model, dataset, crf=tmp_path / "crf.json").mean_iou, abs=1e-3)


def test_search_takes_pictures_from_the_whole_set_and_looks_at_them_as_told() -> None:
    class Noted(Scenes):
        def read(self, index: int):
            seen.append(index)
            return super().read(index)

    seen: list[int] = []
    dataset = Noted("val", (40, 40), length=10)
    once = tune_crf(Pixelwise(11), dataset, count=3, grid={"appearance_weight": (0,)}, rounds=1, iterations=0)
    assert seen == [0, 3, 6]
    seen.clear()
    more = tune_crf(Pixelwise(11), dataset, grid={"appearance_weight": (0,)}, rounds=1, iterations=0, scales=(2,))
    assert seen == list(range(10))
    assert once.mean_iou == pytest.approx(once.mean_iou_before, abs=1e-3), "no iteration, no change"
    assert more.mean_iou_before == pytest.approx(evaluate(Pixelwise(11), dataset, scales=(2,)).mean_iou, abs=1e-3)


def test_search_refuses_what_cannot_be_scored() -> None:
    class Void(Scenes):
        def read(self, index: int):
            image, label = super().read(index)[:2]
            return image, np.full_like(label, 255)

    dataset = Scenes("val", (40, 40), length=2)
    with pytest.raises(ValueError, match="count=0: allowed are whole numbers of pictures from 1"):
        tune_crf(Pixelwise(11), dataset, count=0)
    with pytest.raises(ValueError, match="model has 3 classes and the data 11"):
        tune_crf(Pixelwise(3), dataset)
    with pytest.raises(ValueError, match="every pixel of the 2 pictures is void"):
        tune_crf(Pixelwise(11), Void("val", (40, 40), length=2))
    with pytest.raises(ValueError, match=r"picture val_00000: at scale 0\.5 an image of 40x40"):
        tune_crf(Pixelwise(11), dataset, scales=(0.5,))
    with pytest.raises(TypeError, match="no parameter 'apearance_weight'; did you mean appearance_weight"):
        tune_crf(Pixelwise(11), dataset, grid={"apearance_weight": (1,)})
