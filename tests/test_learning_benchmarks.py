"""The measurements of pseudo labels and of the trained CRF: the model that they train, and that they run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from benchmarks import ablation, crf_layer, pseudo_labels
from benchmarks.crf_layer import WithCRF, verdict
from deeplab_lesson import create_model
from deeplab_lesson.crf import DenseCRF, mean_field
from deeplab_lesson.data import Scenes, normalize
from deeplab_lesson.training import preset_config
from deeplab_lesson.training.checkpoint import load_checkpoint
from deeplab_lesson.training.optim import build_optimizer
from deeplab_lesson.training.step_loss import StepLoss

PARAMETERS = {"appearance_sigma_xy": 10.0, "appearance_sigma_rgb": 10.0, "iterations": 3}


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    image, label = Scenes("train", (48, 48), length=1).read(0)
    return torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(label).long()[None]


def test_network_with_crf_gives_the_crfs_marginals_of_the_unnormalized_picture() -> None:
    torch.manual_seed(0)
    network = create_model("deeplabv1_mini", 11).eval()
    picture, _ = scene()
    with torch.no_grad():
        got = WithCRF(network, DenseCRF(11, **PARAMETERS)).eval()(normalize(picture))
        want = mean_field(network(normalize(picture)), picture, **PARAMETERS)
    torch.testing.assert_close(got.exp(), want, atol=1e-4, rtol=0)


def test_loss_reaches_the_network_and_the_crf_through_its_iterations() -> None:
    torch.manual_seed(0)
    model = WithCRF(create_model("deeplabv1_mini", 11), DenseCRF(11, trainable=True, **PARAMETERS)).train()
    picture, label = scene()
    F.cross_entropy(model(normalize(picture).repeat(2, 1, 1, 1)), label.repeat(2, 1, 1), ignore_index=255).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    own = [id(parameter) for parameter in model.head_parameters()]
    assert own == [id(model.crf.weights), id(model.crf.compatibility)]  # with a learning rate of their own


@pytest.mark.parametrize(
    ("trained", "says"),
    [
        ([(0.5, 0.6), (0.5, 0.6)], "with every seed at 2 of 2 widths"),
        ([(0.5, 0.6), (0.5, 0.3)], "with every seed at 1 of 2 widths"),
        ([(0.5, 0.6), (0.3, 0.3)], "with every seed at 0 of 2 widths"),
    ],
)
def test_verdict_says_what_came_out(trained: list[tuple[float, float]], says: str) -> None:
    def scores(rows: list[tuple[float, float]]) -> list[dict]:
        return [{"trimap_mean_iou": dict(zip((1, 4), row, strict=True))} for row in rows]

    others = scores([(0.4, 0.4), (0.4, 0.4)])
    lines = verdict({"trained CRF": scores(trained), "without CRF": others, "fixed CRF": others}).splitlines()
    assert len(lines) == 2
    assert all(line.endswith(says) for line in lines)


def test_ablation_gathers_what_several_calls_have_finished_and_trains_nothing_twice(tmp_path: Path) -> None:
    settings = {"steps": 2, "limit": 4, "size": 48, "batch_size": 2, "test_pictures": 8}
    calls = [((0,), ("DeepLab v1",)), ((1,), ("one 3x3",)), ((1, 0), ("DeepLab v1",))]
    for seeds, rows in calls:
        ablation.main(**settings, seeds=seeds, rows=rows, runs=tmp_path / "runs", results=tmp_path)
    result = json.loads((tmp_path / "ablation_cpu.json").read_text())
    assert {row["row"]: row["seeds"] for row in result["models"]} == {"DeepLab v1": [0, 1], "one 3x3": [1]}
    assert {part: list(result[part]) for part in ablation.PARTS} == {
        "family": ["DeepLab v1"],
        "context": [],
        "decoder": ["one 3x3"],
        "losses": [],
        "optimization": [],
    }
    assert len(result["family"]["DeepLab v1"]) == 2
    weights = {path.read_bytes() for path in (tmp_path / "runs").glob("*/DeepLab v1/*/last.safetensors")}
    assert len(weights) == 2  # the seeds differ
    own = json.loads(next((tmp_path / "runs").glob("*/one 3x3/1/scores.json")).read_text())
    assert result["decoder"]["one 3x3"] == [own]
    metrics = list((tmp_path / "runs").glob("*/*/*/metrics.jsonl"))
    assert [path.read_text().count('"loss"') for path in metrics] == [1] * 3  # each trained once
    with pytest.raises(ValueError, match=r"there is no row DeepLab v4: allowed are FCN-32s, DeepLab v1"):
        ablation.main(**settings, rows=("DeepLab v4",), runs=tmp_path / "runs", results=tmp_path)


@pytest.mark.parametrize("name", [name for rows in ablation.PARTS.values() for name in rows])
def test_rows_of_the_ablation_name_models_and_settings_that_exist(name: str) -> None:
    row = next(rows[name] for rows in ablation.PARTS.values() if name in rows)
    create_model(row.model, 11, **row.options)
    config = replace(preset_config("scenes", "cpu"), **row.recipe)
    StepLoss(config.losses)
    build_optimizer(create_model("fcn32s_mini", 11), config)


@pytest.mark.slow
def test_pseudo_labels_are_measured_and_a_second_call_trains_nothing(tmp_path: Path) -> None:
    settings = {"pictures": 40, "steps": 6, "seeds": (0,), "batch_size": 2, "size": 48, "val_pictures": 2}
    results = []
    for _ in range(2):
        pseudo_labels.main(**settings, test_pictures=3, runs=tmp_path / "runs", results=tmp_path)
        results.append(json.loads((tmp_path / "pseudo_labels.json").read_text()))
    result = results[0]
    assert list(result["test_mean_iou"]) == ["supervised", "student 1", "supervised long", "all labels"]
    assert (result["labeled"], result["unlabeled"], len(result["pseudo_labels"][0])) == (2, 38, 1)
    assert result["pseudo_labels"][0][0]["kept"] == pytest.approx(0.5, abs=0.01)
    lines = {path.parent.name: path.read_text() for path in (tmp_path / "runs").rglob("metrics.jsonl")}
    last = {name: json.loads(text.splitlines()[-1])["step"] for name, text in lines.items()}
    assert last == {"round_0": 6, "round_1": 6, "supervised_long": 12, "all_labels": 6}
    assert results[1]["test"] == result["test"]


@pytest.mark.slow
def test_trained_crf_is_measured_and_a_second_call_says_the_same(tmp_path: Path) -> None:
    settings = {"steps": 6, "further_steps": 2, "seeds": (0,), "pictures": 16, "size": 48, "search_pictures": 2}
    results = []
    for _ in range(2):
        crf_layer.main(**settings, test_pictures=3, runs=tmp_path / "runs", results=tmp_path)
        results.append(json.loads((tmp_path / "crf_layer.json").read_text()))
    assert list(results[0]["test"]) == ["first stage", "without CRF", "fixed CRF", "trained CRF", "- its network"]
    weights = results[0]["crf"][0]["searched"]["trained CRF"]
    learned = results[0]["crf"][0]["learned_weights"]
    assert learned != [weights["appearance_weight"], weights["smoothness_weight"]]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["crf"] == results[1]["crf"]
    first = tmp_path / "runs" / "0" / "first_stage" / "last.safetensors"
    assert load_checkpoint(first)[0].spec["name"] == "deeplabv1_mini"
    crf_layer.main(**settings, start_from=first, test_pictures=3, runs=tmp_path / "again", results=tmp_path)
    assert json.loads((tmp_path / "crf_layer.json").read_text())["test"] == results[0]["test"]
