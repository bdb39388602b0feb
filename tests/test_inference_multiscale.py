"""Several looks at one picture: probabilities are averaged, one look is `predict`, and odd scales are explained."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_models import ByWidth, Pixelwise
from torchvision.transforms.v2 import functional as F

from deeplab_lesson.data import normalize
from deeplab_lesson.inference import predict, predict_multiscale, predict_probabilities
from deeplab_lesson.training.answers import SCALES
from deeplab_lesson.training.checkpoint import load_checkpoint


def noise(height: int = 50, width: int = 60) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(checkpoint: Path):
    return load_checkpoint(checkpoint)[0]


# ---- identities --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(33, 33), (50, 61), (128, 96)])
def test_one_look_at_the_picture_as_it_is_is_predict(model, size: tuple[int, int]) -> None:
    image = noise(*size)
    labels = predict_multiscale(model, image, scales=(1,), flip=False)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, predict(model, image))
    assert len(np.unique(labels)) > 1


def test_probabilities_of_one_look_are_the_softmax_of_the_logits(model) -> None:
    with torch.no_grad():
        expected = model(normalize(noise())[None])[0].softmax(0)
    probabilities = predict_probabilities(model, noise())
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities, expected)


@pytest.mark.parametrize("flip", [False, True])
def test_probabilities_are_the_mean_over_the_looks_by_torchvisions_operations(model, flip: bool) -> None:
    image, scales = noise(70, 60), (0.75, 1, 1.5)
    sizes = [(53, 45), (70, 60), (105, 90)]  # 52.5 becomes 53
    looks = []
    with torch.no_grad():
        for size in sizes:
            shown = F.resize(normalize(image), list(size), antialias=False)
            logits = [model(shown[None])[0]]
            if flip:
                logits.append(F.horizontal_flip(model(F.horizontal_flip(shown)[None])[0]))
            looks += [F.resize(each, [70, 60], antialias=False).softmax(0) for each in logits]
    expected = torch.stack(looks).mean(0)
    torch.testing.assert_close(predict_probabilities(model, image, scales, flip), expected, atol=1e-5, rtol=1e-4)
    agree = predict_multiscale(model, image, scales, flip) == expected.argmax(0).numpy()
    assert agree.mean() > 0.999


def test_default_looks_are_those_of_v3(model) -> None:
    assert SCALES == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    image = noise(72, 70)
    np.testing.assert_array_equal(predict_multiscale(model, image), predict_multiscale(model, image, SCALES, flip=True))
    assert (predict_multiscale(model, image) != predict(model, image)).any()


def test_mirrored_picture_gets_the_mirrored_answer_once_both_are_averaged(model) -> None:
    image, mirrored = noise(), np.ascontiguousarray(noise()[:, ::-1])
    alone = predict_probabilities(model, mirrored).flip(2) - predict_probabilities(model, image)
    both = predict_probabilities(model, mirrored, (0.75, 1), flip=True).flip(2)
    assert alone.abs().max() > 1e-3, "the model itself is not symmetric"
    torch.testing.assert_close(both, predict_probabilities(model, image, (0.75, 1), flip=True))


def test_flip_changes_nothing_where_the_model_is_symmetric() -> None:
    model = Pixelwise(5)
    expected = predict_probabilities(model, noise(), (1, 1.5))
    torch.testing.assert_close(predict_probabilities(model, noise(), (1, 1.5), flip=True), expected)


def test_probabilities_are_averaged_and_not_logits() -> None:
    model = ByWidth({40: (3, 0), 60: (3, 0), 80: (0, 10)})  # two looks are fairly sure of 0, one very sure of 1
    assert np.mean([logits[0] - logits[1] for logits in model.logits.values()]) < 0, "a mean of logits says 1"
    probabilities = predict_probabilities(model, noise(40, 40), (1, 1.5, 2))
    two_of_three = (2 / (1 + np.exp(-3)) + 1 / (1 + np.exp(10))) / 3
    torch.testing.assert_close(probabilities[0], torch.full((40, 40), two_of_three, dtype=torch.float32))
    assert (predict_multiscale(model, noise(40, 40), (1, 1.5, 2), flip=False) == 0).all()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(33, 80),
    st.integers(33, 80),
    st.lists(st.floats(1, 2.5), min_size=1, max_size=3),
    st.booleans(),
    st.integers(2, 6),
)
def test_probabilities_sum_to_one_at_the_pictures_size_for_any_looks(
    height: int, width: int, scales: list[float], flip: bool, classes: int
) -> None:
    probabilities = predict_probabilities(Pixelwise(classes), noise(height, width), scales, flip)
    assert probabilities.shape == (classes, height, width)
    assert float(probabilities.min()) >= 0
    torch.testing.assert_close(probabilities.sum(0), torch.ones(height, width))
    reversed_order = predict_probabilities(Pixelwise(classes), noise(height, width), scales[::-1], flip)
    torch.testing.assert_close(probabilities, reversed_order)


def test_short_side_is_the_size_that_the_scales_are_relative_to(model) -> None:
    image = noise(100, 150)
    labels = predict_multiscale(model, image, (0.75, 1), flip=False, short_side=50)
    assert labels.shape == (100, 150)
    one_look = predict_multiscale(model, image, (1,), flip=False, short_side=50)
    np.testing.assert_array_equal(one_look, predict(model, image, short_side=50))
    with pytest.raises(ValueError, match=r"at scale 0\.5 an image of 50x75"):
        predict_multiscale(model, image, (0.5,), short_side=50)


def test_every_part_of_the_model_gets_its_mode_back(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint)[0].train()
    model.backbone.eval()
    modes = [part.training for part in model.modules()]
    predict_multiscale(model, noise(), (1, 1.5))
    with pytest.raises(ValueError, match="33"):
        predict_multiscale(model, noise(), (0.1,))
    assert [part.training for part in model.modules()] == modes


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("predict_somehow", [predict_multiscale, predict_probabilities])
@pytest.mark.parametrize(
    ("scales", "kind", "message"),
    [
        ((), ValueError, r"scales=\(\): allowed are one or more finite numbers above 0"),
        ((1, 0), ValueError, r"scales=\(1\.0, 0\.0\): allowed are one or more finite"),
        ((-0.5,), ValueError, "finite numbers above 0"),
        ((float("nan"), 1), ValueError, r"scales=\(nan, 1\.0\)"),
        ((float("inf"),), ValueError, r"scales=\(inf,\)"),
        (0.5, TypeError, r"scales=0\.5: allowed is a sequence of numbers, such as \(0\.5, 0\.75, 1\)"),
        (("large",), TypeError, r"scales=\('large',\): allowed is a sequence of numbers"),
        ((1, 0.5), ValueError, r"at scale 0\.5 an image of 50x60 \(height x width\) is 25x30.*33.*below 0\.66"),
    ],
)
def test_scales_that_make_no_sense_are_refused(model, predict_somehow, scales, kind, message: str) -> None:
    with pytest.raises(kind, match=message):
        predict_somehow(model, noise(), scales)


def test_smallest_scale_that_the_message_names_is_allowed(model) -> None:
    assert predict_multiscale(model, noise(), (0.66,), flip=False).shape == (50, 60)


@pytest.mark.parametrize("predict_somehow", [predict_multiscale, predict_probabilities])
def test_what_is_no_rgb_picture_is_refused_before_the_model_sees_it(model, predict_somehow) -> None:
    with pytest.raises(TypeError, match="float64: allowed is uint8 RGB"):
        predict_somehow(model, noise() / 255)
    with pytest.raises(ValueError, match=r"\(50, 60\): allowed is \(height, width, 3\)"):
        predict_somehow(model, noise()[..., 0])


def test_model_whose_logits_are_smaller_than_its_image_is_refused() -> None:
    class Unpadded(Pixelwise):
        """Cuts a border off, as U-Net does in its published form."""

        def forward_heads(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"out": super().forward_heads(images)["out"][:, :, 2:-2, 2:-2]}

    assert predict(Unpadded(2), noise()).shape == (46, 56)
    with pytest.raises(ValueError, match=r"logits are 46x56 for an image of 50x60.*padding='same'"):
        predict_multiscale(Unpadded(2), noise(), (1,), flip=True)
