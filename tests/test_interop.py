"""torchvision's weights in our model: the same logits, all of them or none, and a photograph labelled with them."""

import copy
import json
import warnings
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.segmentation import (
    DeepLabV3_ResNet50_Weights,
    deeplabv3_resnet50,
    deeplabv3_resnet101,
)

from deeplab_lesson import cli, create_model, interop
from deeplab_lesson.data import VOC_PALETTE
from deeplab_lesson.data.palette import VOC_CLASSES
from deeplab_lesson.inference import predict, predict_files_with
from deeplab_lesson.interop import load_torchvision_weights, published_model
from deeplab_lesson.training.checkpoint import load_checkpoint, save_checkpoint

PUBLISHED = DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1
FILE = "deeplabv3_resnet50_coco-cd0a2569.pth"
BUILT = {"output_stride": 8, "multi_grid": None, "head_conv": True}


def build_theirs(builder=deeplabv3_resnet50, *, aux: bool = True, classes: int = 21) -> nn.Module:
    """torchvision's own model, BatchNorm statistics and classifiers included far from their defaults."""
    torch.manual_seed(5)
    model = builder(weights=None, weights_backbone=None, aux_loss=aux, num_classes=classes)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.normal_(layer.bias, 0, 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    return build_theirs()


@pytest.fixture(scope="module")
def untouched() -> nn.Module:
    """Our model, into which nothing may be loaded."""
    return create_model("deeplabv3_resnet50", **BUILT)


@pytest.fixture
def state(theirs: nn.Module) -> dict[str, Tensor]:
    """A mapping of its own; its tensors are the model's."""
    return dict(theirs.state_dict())


def quietly(*arguments) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_torchvision_weights(*arguments)


def relative_error(got: Tensor, want: Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


# ---- the same logits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(33, 33), (65, 97), (64, 96), (90, 51)])
def test_logits_are_torchvisions_for_odd_and_even_sizes(theirs: nn.Module, state, size: tuple[int, int]) -> None:
    ours = quietly("deeplabv3_resnet50", state)
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        want, got = theirs(images)["out"], ours(images)
    assert want.std() > 0.01
    assert relative_error(got, want) < 1e-5


@pytest.mark.parametrize("aux", [True, False])
def test_logits_of_resnet101_are_torchvisions_with_and_without_auxiliary_head(aux: bool) -> None:
    theirs = build_theirs(deeplabv3_resnet101, aux=aux)
    ours = quietly("deeplabv3_resnet101", theirs.state_dict())
    images = torch.randn(1, 3, 65, 50)
    with torch.no_grad():
        assert relative_error(ours(images), theirs(images)["out"]) < 1e-5


def test_auxiliary_logits_are_torchvisions_where_our_model_has_the_head(theirs: nn.Module, state) -> None:
    model = create_model("deeplabv3_resnet50", aux_head=True, **BUILT).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is skipped, so nothing is said
        assert load_torchvision_weights(model, state) is model
    assert model.skipped_weights == ()
    images = torch.randn(1, 3, 65, 66)
    with torch.no_grad():
        want, got = theirs(images), model.forward_heads(images)
    for key in ("out", "aux"):
        assert relative_error(got[key], want[key]) < 1e-5


@pytest.mark.parametrize(
    "change", [{"output_stride": 16}, {"multi_grid": (1, 2, 4)}, {"multi_grid": (1, 1, 1)}], ids=str
)
def test_a_model_built_otherwise_takes_the_weights_and_gives_other_logits(theirs: nn.Module, state, change) -> None:
    """And so the equality above has teeth."""
    model = create_model("deeplabv3_resnet50", **{**BUILT, **change}).eval()
    quietly(model, state)
    images = torch.randn(1, 3, 97, 97)
    with torch.no_grad():
        assert relative_error(model(images), theirs(images)["out"]) > 0.01


def test_number_of_classes_is_the_state_dicts(theirs: nn.Module, state) -> None:
    state["classifier.4.weight"], state["classifier.4.bias"] = torch.randn(3, 256, 1, 1), torch.randn(3)
    model = quietly("deeplabv3_resnet50", state)
    assert model.spec["num_classes"] == 3
    assert not model.training
    torch.testing.assert_close(model.classifier.weight, state["classifier.4.weight"])


# ---- all or nothing ----------------------------------------------------------------------------------------


def test_skipped_auxiliary_keys_are_listed(state) -> None:
    auxiliary = [key for key in state if key.startswith("aux_classifier.")]
    assert len(auxiliary) == 8
    with pytest.warns(
        UserWarning, match=r"8 weights of torchvision's auxiliary head were skipped.*aux_head=True"
    ) as seen:
        model = load_torchvision_weights("deeplabv3_resnet50", state)
    assert all(key in str(seen[0].message) for key in auxiliary)
    assert model.skipped_weights == tuple(auxiliary)
    without = {key: value for key, value in state.items() if key not in auxiliary}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_torchvision_weights(model, without).skipped_weights == ()


def test_every_tensor_but_the_skipped_ones_is_in_the_model_once(state) -> None:
    model = quietly("deeplabv3_resnet50", state)
    held = sorted(tensor.double().sum().item() for tensor in model.state_dict().values())
    given = sorted(v.double().sum().item() for k, v in state.items() if k not in model.skipped_weights)
    assert held == given


def test_counters_that_old_files_lack_may_be_missing(theirs: nn.Module, state) -> None:
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    ours = quietly("deeplabv3_resnet50", old)
    images = torch.randn(1, 3, 40, 47)
    with torch.no_grad():
        assert relative_error(ours(images), theirs(images)["out"]) < 1e-5


def rename(state: dict[str, Tensor]) -> None:
    state["module.backbone.conv1.weight"] = state.pop("backbone.conv1.weight")


def narrow(state: dict[str, Tensor]) -> None:
    state["classifier.0.project.0.weight"] = torch.zeros(256, 1024, 1, 1)


def clear(state: dict[str, Tensor]) -> None:
    state.clear()


def wrap(state: dict[str, Tensor]) -> None:
    held = dict(state)
    state.clear()
    state |= {"model": held, "epoch": 29}


def number(state: dict[str, Tensor]) -> None:
    state["classifier.4.bias"] = 0.5


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (
            rename,
            ["has no backbone.conv1.weight; an extra module.backbone.conv1.weight.", "Skipped: aux_classifier.0.w"],
        ),
        (narrow, ["classifier.0.project.0.weight [256, 1024, 1, 1] where the model has [256, 1280, 1, 1]"]),
        (clear, ["no backbone.bn1.bias; no backbone.bn1.running_mean;", "differences)", "Skipped: nothing"]),
        (wrap, ["no backbone.bn1.bias", "differences)"]),
        (number, ["classifier.4.bias a float where the model has a tensor"]),
    ],
)
def test_wrong_keys_and_shapes_are_named_and_nothing_is_loaded(untouched, state, damage, parts: list[str]) -> None:
    before = {key: value.clone() for key, value in untouched.state_dict().items()}
    damage(state)
    with pytest.raises(ValueError, match="none was loaded") as error:
        load_torchvision_weights(untouched, state)
    assert all(part in str(error.value) for part in parts), error.value
    assert all(torch.equal(value, before[key]) for key, value in untouched.state_dict().items())


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"head_conv": False}, "an extra classifier.1.weight"),
        ({"image_pooling": False}, "an extra classifier.0.convs.4.1.weight"),
        ({"head": "cascade", "head_conv": False}, "no head.block5.0.bn1.bias"),
        ({"num_classes": 5}, "classifier.4.weight [21, 256, 1, 1] where the model has [5, 256, 1, 1]"),
    ],
)
def test_model_of_another_build_is_refused(state, options, part: str) -> None:
    model = create_model("deeplabv3_resnet50", **{**BUILT, **options})
    with pytest.raises(ValueError, match="with head_conv=True") as error:
        load_torchvision_weights(model, state)
    assert part in str(error.value)


def test_weights_of_another_depth_are_refused(state) -> None:
    with pytest.raises(ValueError, match=r"no backbone\.layer3\.10.*\(255 differences\)"):
        load_torchvision_weights("deeplabv3_resnet101", state)


def test_what_is_no_deeplab_v3_or_no_state_dict_is_refused(theirs: nn.Module, state) -> None:
    with pytest.raises(ValueError, match=r"'fcn_resnet50': allowed are deeplabv3_resnet50 and deeplabv3_resnet101"):
        load_torchvision_weights("fcn_resnet50", state)
    with pytest.raises(TypeError, match=r"DeepLabV3Plus: allowed is DeepLab v3, create_model.*head_conv=True"):
        load_torchvision_weights(create_model("deeplabv3plus_mini"), state)
    with pytest.raises(TypeError, match=r"the state dict is a DeepLabV3: .*model\.state_dict\(\)"):
        load_torchvision_weights("deeplabv3_resnet50", theirs)


# ---- the published weights ---------------------------------------------------------------------------------


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, state) -> list[tuple]:
    """Hand our state dict out instead of the one in the internet, and note what is asked for."""
    asked: list[tuple] = []

    def load(url: str, **options):
        asked.append((url, options))
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    return asked


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder of torch's, and no internet."""

    def offline(*arguments, **options):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    return tmp_path / "torch/hub/checkpoints"


def test_create_model_with_weights_is_torchvisions_model(theirs: nn.Module, published) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = create_model("deeplabv3_resnet50", weights="torchvision").eval()
    ((url, options),) = published
    assert url.endswith(f"/{FILE}")
    assert options["check_hash"] is True
    assert options["weights_only"] is True, "nothing in the file is ever executed"
    assert len(model.skipped_weights) == 8
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        assert relative_error(model(images), theirs(images)["out"]) < 1e-5


def test_options_given_by_hand_win_over_torchvisions(published) -> None:
    model = create_model("deeplabv3_resnet50", weights="torchvision", output_stride=16, aux_head=True)
    assert (model.spec["output_stride"], model.spec["head_conv"], model.skipped_weights) == (16, True, ())


def test_saved_model_with_published_weights_is_read_again_without_them(published, tmp_path: Path) -> None:
    model = create_model("deeplabv3_resnet50", weights="torchvision").eval()
    save_checkpoint(tmp_path / "a.safetensors", model, {})
    again, _ = load_checkpoint(tmp_path / "a.safetensors")
    assert len(published) == 1
    assert again.spec == model.spec
    images = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(again(images), model(images))


def test_offline_says_which_file_to_put_where_and_finds_it_there(theirs: nn.Module, cache: Path) -> None:
    with pytest.raises(ConnectionError) as error:
        create_model("deeplabv3_resnet50", weights="torchvision")
    assert str(cache / FILE) in str(error.value)
    assert f"https://download.pytorch.org/models/{FILE}" in str(error.value)
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(theirs.state_dict(), cache / FILE)
    model = create_model("deeplabv3_resnet50", weights="torchvision")
    torch.testing.assert_close(model.classifier.weight, theirs.classifier[4].weight)


def test_damaged_file_in_the_cache_is_named(cache: Path) -> None:
    cache.mkdir(parents=True)
    for content in (b"", b"<html>not found</html>", b"PK\x03\x04 half a zip"):
        (cache / FILE).write_bytes(content)
        with pytest.raises(ValueError, match=r"is damaged.*delete it, then") as error:
            create_model("deeplabv3_resnet50", weights="torchvision")
        assert str(cache / FILE) in str(error.value)


def test_transfer_with_another_checksum_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own check, on a file that is not what its name's checksum says."""
    source = cache.parents[2] / FILE
    source.write_bytes(b"something else")
    weights = copy.copy(PUBLISHED.value)
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(cache.parents[1]))
    monkeypatch.setattr(PUBLISHED, "_value_", type(weights)(source.as_uri(), weights.transforms, weights.meta))
    with pytest.raises(ConnectionError, match=r"arrived damaged \(invalid hash value \(expected \"cd0a2569\""):
        create_model("deeplabv3_resnet50", weights="torchvision")
    assert not (cache / FILE).exists()


@pytest.mark.parametrize(
    ("name", "classes", "weights", "message"),
    [
        ("deeplabv3_resnet50", 5, "torchvision", r"VOC's 21 classes, and num_classes=5.*pretrained_backbone=True"),
        (
            "deeplabv3_mini",
            21,
            "torchvision",
            r"deeplabv3_mini: allowed with deeplabv3_resnet50 and deeplabv3_resnet101",
        ),
        ("deeplabv3_resnet50", 21, "imagenet", r"weights='imagenet': allowed are 'torchvision' and None"),
    ],
)
def test_weights_that_nobody_published_are_refused_before_any_download(cache, name, classes, weights, message) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(name, classes, weights=weights)


# ---- a photograph ------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """Answers 1 in the right half and 0 in the left, and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        right = (torch.arange(images.shape[3]) * 2 >= images.shape[3]).float().expand(images.shape[2], -1)
        return torch.stack([1 - right, right])[None]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(700, 901), (300, 200), (520, 640)])
def test_picture_is_shown_to_the_model_as_torchvisions_own_transform_does(size: tuple[int, int]) -> None:
    image, model = noise(*size), Recorder()
    labels = predict(model, image, short_side=interop.SHORT_SIDE)
    want = PUBLISHED.transforms()(Image.fromarray(image))[None]
    torch.testing.assert_close(model.seen, want)
    assert labels.shape == size
    assert labels.dtype == np.uint8
    assert (labels == (np.arange(size[1]) * 2 >= size[1])).mean() > 0.995, "labels lie where they were predicted"


def test_class_names_are_torchvisions_in_their_order() -> None:
    def plain(name: str) -> str:
        return name.replace(" ", "").strip("_")

    assert [plain(n) for n in VOC_CLASSES] == [plain(n) for n in PUBLISHED.meta["categories"]]


def test_published_model_labels_picture_files_in_vocs_colors(published, picture: Path, monkeypatch) -> None:
    monkeypatch.setattr(interop, "SHORT_SIDE", 64)
    model, metadata = published_model()
    assert json.loads(json.dumps(metadata)) == metadata
    assert not model.training
    ((_, target),) = predict_files_with(model, metadata, [picture], picture.parent / "out")
    with Image.open(picture) as image, Image.open(target) as written:
        assert (np.array(written) == predict(model, np.array(image), short_side=64)).all()
        assert written.getpalette()[: 3 * 21] == VOC_PALETTE[:21].ravel().tolist()


def test_command_predicts_with_published_weights(published, picture: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(interop, "SHORT_SIDE", 40)
    monkeypatch.chdir(picture.parent)
    assert cli.main(["predict", "--weights", "torchvision", "picture.png"]) == 0
    assert capsys.readouterr().out == "picture.png -> predictions/picture.png\n"
    Image.open(picture).save("second.png")
    assert cli.main(["predict", "picture.png", "second.png", "--weights", "torchvision", "--out", "two"]) == 0
    assert {path.name for path in Path("two").iterdir()} == {
        f"{name}{end}.png" for name in ("picture", "second") for end in ("", "_overlay")
    }


def test_command_without_internet_says_what_to_do_in_one_line(cache: Path, picture: Path, capsys) -> None:
    assert cli.main(["predict", "--weights", "torchvision", str(picture)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("deeplab-lesson: torchvision's weights of deeplabv3_resnet50 could not be downloaded")
    assert error.count("\n") == 1
    assert str(cache / FILE) in error
