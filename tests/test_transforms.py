"""What a view of a picture keeps: the size, the geometry of picture and label together, and no invented class."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_lesson.data import Scenes
from deeplab_lesson.data.transforms import EvalTransform, TrainTransform, denormalize, normalize
from deeplab_lesson.layers.resize import resize_labels

VOID = 255


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene() -> tuple[np.ndarray, np.ndarray]:
    return Scenes("train", (90, 120), length=1)[0]


def test_normalize_is_imagenets_and_keeps_the_geometry() -> None:
    image = np.zeros((2, 3, 3), dtype=np.uint8)
    image[1, 2] = (255, 0, 255)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(normalize(image)[:, 1, 2], torch.tensor(expected))
    assert normalize(image).shape == (3, 2, 3)
    torch.testing.assert_close(normalize(torch.from_numpy(image).permute(2, 0, 1)[None])[0], normalize(image))


def test_denormalize_is_the_inverse_of_normalize_for_every_shade() -> None:
    image = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3, axis=2)
    image[..., 1] = image[::-1, ..., 1]
    np.testing.assert_array_equal(denormalize(normalize(image)), image)


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), torch.zeros(3, 4, 4)])
def test_normalizing_what_is_no_uint8_picture_is_refused(image) -> None:
    with pytest.raises(TypeError, match="allowed is uint8, 0 to 255; is it normalized already"):
        normalize(image)


def test_eval_transform_changes_no_pixel() -> None:
    image, label = scene()
    tensor, ids = EvalTransform()(image, label)
    assert (tensor.dtype, ids.dtype) == (torch.float32, torch.int64)
    np.testing.assert_array_equal(denormalize(tensor), image)
    np.testing.assert_array_equal(ids.numpy(), label)


def test_the_same_generator_state_gives_the_same_view_and_another_state_another() -> None:
    transform = TrainTransform((48, 64), color_jitter=0.3)
    first, again, other = (transform(*scene(), seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_the_view_does_not_change_the_picture_and_does_not_touch_the_global_generator() -> None:
    image, label = scene()
    before = image.copy(), label.copy(), torch.get_rng_state()
    TrainTransform((48, 64), color_jitter=0.3)(image, label, seeded(0))
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(label, before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    crop=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    smallest=st.floats(0.2, 2),
    ratio=st.floats(1, 4),
    seed=st.integers(0, 2**32),
)
def test_views_have_exactly_the_crops_size_and_invent_no_label(size, crop, smallest, ratio, seed) -> None:
    random = np.random.default_rng(seed)
    label = random.choice(np.array([0, 3, 20, VOID], dtype=np.uint8), size=size)
    image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    tensor, ids = TrainTransform(crop, (smallest, smallest * ratio))(image, label, seeded(seed))
    assert tensor.shape == (3, *crop)
    assert ids.shape == crop
    assert (tensor.dtype, ids.dtype) == (torch.float32, torch.int64)
    assert set(ids.unique().tolist()) <= set(np.unique(label).tolist()) | {VOID}


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
def test_padding_is_void_in_the_label_and_the_mean_color_in_the_picture(scale: float) -> None:
    image = np.full((20, 30, 3), 255, dtype=np.uint8)  # smaller than the crop at each of the scales
    label = np.ones((20, 30), dtype=np.uint8)
    tensor, ids = TrainTransform((60, 80), (scale, scale), flip=0)(image, label, seeded(1))
    void = ids == VOID
    assert set(ids.unique().tolist()) == {1, VOID}
    share = 20 * 30 * scale**2 / (60 * 80)
    assert (~void).float().mean().item() == pytest.approx(share, rel=0.12)
    inner = -torch.nn.functional.max_pool2d(-void[None].float(), 7, 1, 3)[0] > 0  # away from the picture's edge
    assert inner.any()
    assert tensor[:, inner].abs().max() < 0.01  # ImageNet's mean, rounded to a whole gray level


def coordinate_picture(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture that shows its own label: 10 x id in red; blocks of 30 pixels, ids 0 to 19."""
    y, x = np.mgrid[:height, :width] // 30
    label = ((5 * y + x) % 20).astype(np.uint8)
    return np.stack([10 * label + 30, 0 * label, 0 * label], axis=2), label


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.3, 2.0])
def test_picture_and_label_are_moved_together(scale: float, flip: float) -> None:
    image, label = coordinate_picture(200, 230)
    for seed in range(4):
        tensor, ids = TrainTransform((100, 90), (scale, scale), flip)(image, label, seeded(seed))
        red = denormalize(tensor)[..., 0].astype(int)
        agree = torch.from_numpy(np.abs(red - (10 * ids.numpy() + 30)) <= 1)
        assert agree[ids != VOID].float().mean() > 0.75
        high = torch.nn.functional.max_pool2d(ids[None].float(), 5, 1, 2)[0]
        low = -torch.nn.functional.max_pool2d(-ids[None].float(), 5, 1, 2)[0]
        inside = (high == low) & (ids != VOID)
        assert inside.float().mean() > 0.3
        assert agree[inside].all()


def test_label_and_picture_edges_lie_in_the_same_place_to_half_a_pixel() -> None:
    """A shift by one pixel, as nearest instead of nearest-exact gives, would show here."""
    label = np.zeros((96, 96), dtype=np.uint8)
    label[:, 48:] = 1
    image = np.stack([255 * label] * 3, axis=2)
    for scale in (0.5, 2.0):
        tensor, ids = TrainTransform((96, 96), (scale, scale), flip=0)(image, label, seeded(3))
        inside = (ids != VOID).all(dim=1)
        bright = torch.from_numpy(denormalize(tensor)[..., 0] > 127)
        assert torch.equal(bright[inside] & (ids[inside] != VOID), ids[inside] == 1)


def test_flip_mirrors_left_and_right_only() -> None:
    image, label = coordinate_picture(60, 90)
    plain = TrainTransform((60, 90), (1, 1), flip=0)(image, label, seeded(0))
    mirrored = TrainTransform((60, 90), (1, 1), flip=1)(image, label, seeded(0))
    for part, expected in zip(mirrored, plain, strict=True):
        assert torch.equal(part, expected.flip(-1))
    np.testing.assert_array_equal(plain[1].numpy(), label)


def test_half_of_the_views_are_flipped_and_zooms_fill_their_range_evenly() -> None:
    """A label that holds its own row and column gives the zoom and the flip away."""
    steps = np.tile(np.arange(200, dtype=np.uint8), (200, 1))
    picture = np.zeros((200, 200, 3), dtype=np.uint8)
    transform = TrainTransform((40, 40), (0.5, 2.0))
    flips, zooms, starts = [], [], []
    for seed in range(400):
        row = transform(picture, steps, seeded(seed))[1][0]
        assert (row != VOID).all()
        span = int(row[-1]) - int(row[0])
        flips.append(span < 0)
        zooms.append(39 / abs(span))
        starts.append(int(row.min()) / (200 - 40 / zooms[-1]))
    assert np.mean(flips) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(400))
    assert min(zooms) == pytest.approx(0.5, abs=0.05)
    assert max(zooms) == pytest.approx(2.0, abs=0.15)
    assert np.mean(zooms) == pytest.approx(1.25, abs=4 * 1.5 / math.sqrt(12 * 400) + 0.03)
    assert np.mean(starts) == pytest.approx(0.5, abs=4 / math.sqrt(12 * 400))
    assert min(starts) < 0.02
    assert max(starts) > 0.98


def test_color_jitter_changes_colors_and_leaves_labels_alone() -> None:
    plain = TrainTransform((48, 64))(*scene(), seeded(2))
    colored = TrainTransform((48, 64), color_jitter=0.5)(*scene(), seeded(2))
    assert torch.equal(colored[1], plain[1])
    assert (colored[0] - plain[0]).abs().mean() > 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (0, 64)}, r"crop=\(0, 64\).*positive"),
        ({"scale": (0.0, 1.0)}, "0 < smallest"),
        ({"scale": (2.0, 1.0)}, "0 < smallest <= largest"),
        ({"scale": (1.0, math.inf)}, "0 < smallest <= largest"),
        ({"scale": (math.nan, 1.0)}, "0 < smallest <= largest"),
        ({"flip": 1.5}, "flip=1.5.*from 0 to 1"),
        ({"flip": math.nan}, "from 0 to 1"),
        ({"color_jitter": 2.0}, "color_jitter=2.0.*from 0 to 1"),
        ({"color_jitter": -0.1}, "color_jitter=-0.1.*from 0 to 1"),
    ],
)
def test_settings_that_make_no_view_are_refused_at_once(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainTransform(**{"crop": (64, 64), **options})


def test_resizing_labels_from_33_to_5_takes_the_pixels_nearest_to_the_new_centers() -> None:
    ids = torch.arange(33)[None].expand(33, 33)
    small = resize_labels(ids, (5, 5))
    assert small[0].tolist() == [3, 9, 16, 23, 29]
    assert resize_labels(ids.T, (5, 5))[:, 0].tolist() == [3, 9, 16, 23, 29]
    assert small.dtype == torch.int64
    assert torch.equal(resize_labels(ids[None], (5, 5))[0], small)
