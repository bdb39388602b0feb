"""Windows: exact ones give the whole picture's logits, averaged ones mean probabilities, in the memory of a window."""

import itertools
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from made_models import Pixelwise
from PIL import Image
from torch import Tensor, nn

from deeplab_lesson import cli, create_model
from deeplab_lesson.data import Scenes, normalize
from deeplab_lesson.data.bundled import bundled
from deeplab_lesson.inference import SlidingWindow, exact_plan, predict, predict_multiscale, predict_sliding_window
from deeplab_lesson.inference.window_plan import even_windows
from deeplab_lesson.layers.resize import resize_features
from deeplab_lesson.models.base import SegmentationModel, check_images
from deeplab_lesson.training.checkpoint import load_checkpoint, save_checkpoint


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def influential(model: SegmentationModel) -> SegmentationModel:
    """In float64, with positive weights and neutral BatchNorm: every pixel of a field matters, and none cancels."""
    generator = torch.Generator().manual_seed(0)
    model = model.double().eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            share = 2 / layer.weight[0].numel()
            layer.weight.copy_(share * (torch.rand(layer.weight.shape, generator=generator, dtype=torch.float64) + 0.5))
    return model


class Small(SegmentationModel):
    """Output stride 4, a decoder's resizing on the way, a field of a few dozen pixels; remembers what it was shown."""

    def __init__(self, rate: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spec = {"name": "small", "num_classes": 3}
        self.one = nn.Conv2d(3, 4, kernel_size=3, stride=2, padding=1)
        self.two = nn.Conv2d(4, 4, kernel_size=3, stride=2, padding=rate, dilation=rate)
        self.three = nn.Conv2d(8, 3, kernel_size=3, padding=1)
        self.shown: list[tuple[int, ...]] = []

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        check_images(images)
        if not images.is_meta:
            self.shown.append(tuple(images.shape[2:]))
        early = self.one(images).relu()
        deep = resize_features(self.two(early).relu(), early.shape[2:])
        return {"out": resize_features(self.three(torch.cat([early, deep], dim=1)), images.shape[2:])}


# ---- exact windows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("fcn32s_mini", {}, (33, 701)),
        ("fcn8s_mini", {}, (700, 34)),
        ("deeplabv1_mini", {}, (701, 33)),
        ("deeplabv1_mini", {"msc": True}, (34, 702)),
        ("deeplabv2_mini", {}, (757, 35)),
        ("unet_mini", {}, (34, 709)),
        pytest.param("segnet_mini", {}, (705, 33), marks=pytest.mark.slow),
        pytest.param("deeplabv3plus_mini", {"image_pooling": False}, (33, 971), marks=pytest.mark.slow),
        pytest.param("deeplabv2_mini", {"multi_scale_inputs": True}, (33, 1501), marks=pytest.mark.slow),
        pytest.param("attention_to_scale_mini", {}, (33, 1501), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_exact_windows_give_the_logits_of_the_whole_picture(name: str, options: dict, size: tuple[int, int]) -> None:
    model = influential(create_model(name, 3, **options))
    side = int(0.85 * max(size))
    images = noise(1, 3, *size)
    with torch.inference_mode():
        whole, got = model(images), SlidingWindow(model, (side, side))(images)
    assert ((got - whole).abs() / whole.abs().max()).max() < 1e-12


@pytest.mark.parametrize("size", [(640, 33), (33, 645)])
def test_exact_windows_in_float32_are_equal_to_a_ten_thousandth(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = create_model("deeplabv1_mini", 21)
    with torch.no_grad():
        model(noise(4, 3, 97, 97, dtype=torch.float32))  # statistics of its own
    model.eval()
    images = noise(2, 3, *size, dtype=torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(SlidingWindow(model, (600, 600))(images), model(images), atol=1e-4, rtol=0)


@given(st.integers(33, 150), st.integers(33, 150), st.integers(60, 120), st.integers(60, 120), st.integers(1, 4))
@settings(max_examples=15, deadline=None, phases=[Phase.generate])  # shrinking five small numbers takes minutes
def test_exact_windows_of_any_size_fit_pictures_of_any_size(
    height: int, width: int, window_height: int, window_width: int, rate: int
) -> None:
    assume(height > window_height or width > window_width)
    model = influential(Small(rate))
    images = noise(1, 3, height, width)
    with torch.inference_mode():
        whole = model(images)
        model.shown.clear()
        got = SlidingWindow(model, (window_height, window_width))(images)
    assert ((got - whole).abs() / whole.abs().max()).max() < 1e-12
    assert all(shown[0] <= window_height and shown[1] <= window_width for shown in model.shown)


def test_a_window_alone_would_be_enlarged_in_other_steps() -> None:
    """Why part_of_whole.py exists: far from every edge, the logits of a plain crop differ where sides are odd."""
    model = influential(Small())
    images = noise(1, 3, 33, 149)
    with torch.inference_mode():
        whole, crop = model(images), model(images[:, :, :, 48:])
        assert (whole[..., 90:110] - crop[..., 42:62]).abs().max() > 1e-3 * whole.abs().max()


def test_smallest_exact_window_is_computed_and_works_and_one_pixel_less_does_not() -> None:
    model = influential(Small())
    images = noise(1, 3, 40, 150)
    with pytest.raises(
        ValueError, match=r"33x33 \(height x width\) is too small.*40x150 .* larger one, or give"
    ) as caught:
        SlidingWindow(model, (33, 33))(images)
    height, width = map(int, re.search(r"begin at (\d+)x(\d+)", str(caught.value)).groups())
    with torch.inference_mode():
        torch.testing.assert_close(SlidingWindow(model, (height, width))(images), model(images))
    with pytest.raises(ValueError, match="too small"):
        SlidingWindow(model, (40, width - 1))(images)


def test_exact_windows_are_refused_for_a_model_that_looks_at_the_whole_image() -> None:
    model = SlidingWindow(create_model("deeplabv3plus_mini", 3).eval(), (64, 64))
    with pytest.raises(ValueError, match=r"whole image \(image pooling.*leave the window out, or give an overlap"):
        model(noise(1, 3, 64, 80, dtype=torch.float32))


@pytest.mark.parametrize("overlap", [None, (8, 8)])
def test_logits_of_another_size_than_the_picture_are_refused(overlap) -> None:
    class Valid(Small):
        def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
            return {"out": super().forward_heads(images)["out"][:, :, 2:-2, 2:-2]}

    windows = SlidingWindow(Valid(), (64, 64), overlap)
    with pytest.raises(ValueError, match=r"windows need logits of the .* size; take a model that pads"):
        windows(torch.zeros(1, 3, 64, 90))


def test_a_resizing_that_windows_cannot_follow_is_refused() -> None:
    class Corners(Small):
        def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
            maps = self.one(images)
            return {"out": nn.functional.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=True)}

    with pytest.raises(ValueError, match=r"bilinear, align_corners=True: exact windows know.*give an overlap"):
        SlidingWindow(Corners(), (60, 60))(noise(1, 3, 60, 90, dtype=torch.float32))


def test_pictures_of_one_size_share_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    plan = exact_plan.ExactPlan.__init__
    monkeypatch.setattr(exact_plan.ExactPlan, "__init__", lambda self, *args: made.append(args[1]) or plan(self, *args))
    windows = SlidingWindow(Small(), (64, 64))
    for size in ((64, 90), (64, 90), (90, 64)):
        windows.label(np.zeros((*size, 3), dtype=np.uint8))
    assert made == [(64, 90), (90, 64)]


# ---- averaged windows --------------------------------------------------------------------------------------


@given(st.integers(33, 400), st.integers(33, 150), st.data())
def test_even_windows_cover_the_picture_and_share_what_was_asked(length: int, window: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, window - 1))
    windows = even_windows(length, window, overlap)
    assert (windows[0].start, windows[-1].stop) == (0, length)
    assert all(each.stop - each.start == min(window, length) for each in windows)
    shared = [left.stop - right.start for left, right in itertools.pairwise(windows)]
    assert shared[:-1] == [overlap] * (len(shared) - 1)
    assert all(overlap <= last < window for last in shared[-1:])


@pytest.mark.parametrize("overlap", [(0, 0), (10, 7), (40, 39)])
def test_averaged_windows_are_the_mean_of_the_probabilities_of_all_windows_that_hold_a_pixel(overlap) -> None:
    model, window = influential(Small()), (41, 40)
    images = noise(2, 3, 90, 77)
    total, looks = torch.zeros(2, 3, 90, 77), torch.zeros(90, 77)
    starts = [
        sorted({min(start, length - side) for start in range(0, length, side - shared)})
        for length, side, shared in zip((90, 77), window, overlap, strict=True)
    ]
    with torch.inference_mode():
        for top in starts[0]:
            for left in starts[1]:
                place = (slice(top, top + 41), slice(left, left + 40))
                total[:, :, *place] += model(images[:, :, *place]).softmax(dim=1)
                looks[place] += 1
        logits = SlidingWindow(model, window, overlap)(images)
    torch.testing.assert_close(logits.softmax(dim=1), total / looks)


def test_averaged_windows_of_a_model_that_sees_single_pixels_are_exact() -> None:
    model = Pixelwise(4).eval()
    images = noise(1, 3, 100, 70, dtype=torch.float32)
    with torch.inference_mode():
        got = SlidingWindow(model, (50, 40), (20, 5))(images)
        torch.testing.assert_close(got.softmax(dim=1), model(images).softmax(dim=1))


def test_image_pooling_sees_the_window_alone_and_how_much_that_changes_is_said() -> None:
    """The bundled v3+ on scenes of 256 pixels: the figures of docs and docstrings come from benchmarks/windows.py."""
    model, _ = load_checkpoint(bundled("weights/deeplabv3plus_mini.safetensors"))
    scenes = Scenes("val", (256, 256), length=2)
    pictures = [scenes.read(index)[0] for index in range(len(scenes))]
    changed = {}
    for window, overlap in ((128, 0), (224, 64)):
        windows = SlidingWindow(model, (window, window), (overlap, overlap))
        with pytest.warns(
            UserWarning, match=rf"deeplabv3plus_mini looks at the whole image.*{window}x{window}"
        ) as said:
            changed[window, overlap] = np.mean([windows.label(each) != predict(model, each) for each in pictures])
        assert len(said) == 1
    assert 0.1 > changed[128, 0] > changed[224, 64] > 0


def test_models_of_finite_field_are_averaged_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SlidingWindow(Small(), (40, 40), (8, 8)).label(np.zeros((60, 60, 3), dtype=np.uint8))


# ---- both --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [None, (8, 8)])
def test_picture_that_fits_into_the_window_is_seen_as_it_is(checkpoint: Path, overlap) -> None:
    model, _ = load_checkpoint(checkpoint)  # with image pooling: no refusal, no warning
    image = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = predict(model, image)
        model.train()  # it is put into eval mode, and back
        np.testing.assert_array_equal(predict_sliding_window(model, image, (48, 60), overlap), expected)
        np.testing.assert_array_equal(predict_sliding_window(model, image, (900, 64), overlap), expected)
    assert model.training


@pytest.mark.parametrize("overlap", [None, (20, 20)])
def test_labels_are_those_of_the_logits_and_the_model_sees_no_more_than_a_window(overlap) -> None:
    model = Small().train()
    image = np.random.default_rng(0).integers(0, 256, (150, 110, 3), dtype=np.uint8)
    windows = SlidingWindow(model, (70, 64), overlap)
    labels = windows.label(image)
    assert model.training
    with torch.inference_mode():
        expected = windows.eval()(normalize(image)[None])[0].argmax(dim=0)
    np.testing.assert_array_equal(labels, expected.numpy())
    assert (labels.dtype, len(np.unique(labels))) == (np.uint8, 3)
    assert len(model.shown) >= 8
    assert all(height <= 70 and width <= 64 for height, width in model.shown)
    np.testing.assert_array_equal(predict_sliding_window(model, image, (70, 64), overlap), labels)


def test_scales_and_flips_through_exact_windows_are_those_of_the_whole_picture() -> None:
    model = Small().eval()
    image = np.random.default_rng(0).integers(0, 256, (100, 90, 3), dtype=np.uint8)
    looks = {"scales": (0.75, 1.0, 1.3), "flip": True}
    got = predict_multiscale(SlidingWindow(model, (70, 64)), image, **looks)
    assert (got != predict_multiscale(model, image, **looks)).mean() < 1e-3  # rounding may turn a tie


@pytest.mark.parametrize(
    ("window", "overlap", "message"),
    [
        ((32, 64), None, r"window=\(32, 64\): allowed are a height and a width of at least 33"),
        (64, None, "window=64: allowed are a height and a width"),
        ((64.0, 64), None, r"window=\(64.0, 64\)"),
        ((64, 64, 3), None, "window="),
        ((64, 80), (64, 0), r"overlap=\(64, 0\) of windows of 64x80 .* from 0 to 63 and 79, such as \(32, 40\)"),
        ((64, 80), (-1, 0), "overlap="),
        ((64, 80), 8, "overlap=8"),
    ],
)
def test_impossible_windows_are_refused(window, overlap, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlidingWindow(Small(), window, overlap)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(TypeError, match="float64: allowed is uint8"):
        predict_sliding_window(Small(), np.zeros((40, 40, 3)), (64, 64))


# ---- command line ------------------------------------------------------------------------------------------


@pytest.fixture
def finite(tmp_path: Path) -> Path:
    """A checkpoint of an untrained model of finite field."""
    torch.manual_seed(0)
    path = tmp_path / "finite.safetensors"
    palette = Scenes.palette[: len(Scenes.classes)].tolist()
    model = create_model("deeplabv1_mini", len(Scenes.classes))
    save_checkpoint(path, model, {"classes": list(Scenes.classes), "palette": palette})
    return path


def test_predict_through_windows_writes_the_labels_of_the_whole_picture(finite: Path, tmp_path: Path, capsys) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 600, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "wide.png")
    words = ["predict", str(finite), str(tmp_path / "wide.png"), "--device", "cpu", "--out"]
    assert cli.main([*words, str(tmp_path / "whole")]) == 0
    assert cli.main([*words, str(tmp_path / "parts"), "--window", "480", "480"]) == 0
    whole, parts = (np.array(Image.open(tmp_path / folder / "wide.png")) for folder in ("whole", "parts"))
    assert (whole != parts).mean() < 1e-3
    assert "wide.png" in capsys.readouterr().out


def test_evaluate_through_windows_says_so_and_keeps_it_with_the_scores(
    checkpoint: Path, voc_folder: Path, tmp_path: Path, capsys
) -> None:
    file = tmp_path / "scores.json"
    words = ["evaluate", str(checkpoint), "--data", "voc", "--root", str(voc_folder), "--json", str(file)]
    with pytest.warns(UserWarning, match="looks at the whole image"):
        assert cli.main([*words, "--window", "40", "40", "--overlap", "20", "20", "--device", "cpu"]) == 0
    assert ", windows of 40x40 (sharing 20x20)" in capsys.readouterr().out.splitlines()[0]
    scores = json.loads(file.read_text())
    assert (scores["window"], scores["overlap"]) == ([40, 40], [20, 20])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--window", 40, 40), "picture.png: the model looks at the whole image"),
        (("--window", 20, 40), "window=(20, 40): allowed are"),
        (("--window", 40, 40, "--overlap", 40, 8), "overlap=(40, 8)"),
        (("--overlap", 8, 8), "give --window HEIGHT WIDTH too"),
        (("--window", 40, 40, "--panoptic"), "--panoptic sees the picture as a whole"),
        (("--window", 40, 40, "--weights", "torchvision"), "leave out --window"),
    ],
)
def test_predict_explains_which_windows_cannot_be(checkpoint: Path, picture: Path, tmp_path: Path, capsys, words, part):
    code = cli.main(["predict", str(checkpoint), str(picture), "--out", str(tmp_path / "out"), *map(str, words)])
    done = capsys.readouterr()
    assert (code, done.out, done.err.count("\n")) == (2, "", 1)
    assert part in done.err
    assert not (tmp_path / "out").exists()
