"""`Scenes` promises the same pixels everywhere, and a world in which each idea of the course is needed."""

import hashlib
import itertools
import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import jaccard_score
from torch.utils.data import DataLoader

from deeplab_lesson.data.scenes import CLASS_ID, CLASSES, HOSTS, SHAPES, Scenes
from deeplab_lesson.data.shapes import dilate

VOID = 255
NOISE = 6  # gray levels, the sensor's largest sigma
WIRE, PEBBLE, SEED, CRESCENT = (CLASS_ID[name] for name in ("wire", "pebble", "seed", "crescent"))


def digest(parts):
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:16]


@pytest.fixture(scope="module")
def pictures():
    """150 x (image, label, instance map)."""
    dataset = Scenes("val", length=150, instances=True)
    return [dataset.read(index) for index in range(len(dataset))]


@pytest.fixture(scope="module")
def objects(pictures):
    """By class: every object as (image, label, mask)."""
    found = defaultdict(list)
    for image, label, instances in pictures:
        for number in range(1, instances.max() + 1):
            mask = instances == number
            found[int(label[mask][0])].append((image, label, mask))
    return found


def outer_ring(mask):
    """The pixels at a distance of two, just beyond the ring of void."""
    return dilate(dilate(mask)) & ~dilate(mask)


def contrast(image, mask):
    """Gray levels between the mean colors along a contour and around it, in the channel that shows most."""
    edge = mask & dilate(~mask)
    return np.abs(image[edge].mean(axis=0) - image[outer_ring(mask)].mean(axis=0)).max()


@pytest.mark.parametrize(
    ("split", "size", "seed", "index", "expected"),
    [
        ("train", (128, 128), 0, 0, "607a278a40e030e5"),
        ("train", (128, 128), 7, 4095, "ede03b38d462258d"),
        ("val", (128, 96), 0, 11, "92416e56df09decb"),
        ("test", (33, 33), 2**40, 511, "facc5527512bcf59"),
        ("test", (256, 320), 1, 3, "d1cf4aa94fa72bd9"),
    ],
)
def test_pixels_are_those_stated_here_on_every_machine(split, size, seed, index, expected):
    assert digest(Scenes(split, size, seed=seed, instances=True).read(index)) == expected


def test_picture_depends_on_neither_order_nor_global_random_state():
    dataset = Scenes("train", instances=True)
    expected = {index: digest(dataset.read(index)) for index in (0, 1, 2, 3)}
    random.seed(1)
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    assert {index: digest(dataset.read(index)) for index in (3, 1, 0, 2)} == expected
    assert (np.random.get_state()[1] == state).all()


def test_spawned_worker_draws_the_same_pictures():
    dataset = Scenes("val", size=(64, 64), length=4, instances=True)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert [digest(part.numpy() for part in parts) for parts in loader] == [digest(dataset[i]) for i in range(4)]


def test_splits_seeds_and_indices_give_different_pictures():
    keys = itertools.product(("train", "val", "test"), (0, 1, 2**32), range(10))
    seen = [digest(Scenes(split, (40, 40), seed=seed).read(index)) for split, seed, index in keys]
    assert len(set(seen)) == len(seen)


def test_lengths_names_and_negative_indices_are_those_of_a_list():
    assert [len(Scenes(split)) for split in ("train", "val", "test")] == [4096, 512, 512]
    dataset = Scenes("val", size=(40, 40), length=8)
    assert dataset.name(7) == dataset.name(-1) == "val_00007"
    assert digest(dataset[-1]) == digest(dataset[np.int64(7)])
    assert len(list(dataset)) == 8  # iteration ends with the IndexError
    assert digest(Scenes("val", size=(40, 40), instances=True).read(7)[:2]) == digest(dataset[7])


def test_transform_gets_the_picture_and_its_result_is_given():
    assert Scenes("val", (40, 48), transform=lambda image, label: (image.shape, 1))[0] == ((40, 48, 3), 1)


@settings(max_examples=15, deadline=None)
@given(height=st.integers(33, 150), width=st.integers(33, 150), index=st.integers(0, 511))
def test_any_size_gives_a_picture_whose_objects_are_apart_by_void(height, width, index):
    image, label, instances = Scenes("test", size=(height, width), instances=True).read(index)
    assert (image.shape, label.shape, instances.shape) == ((height, width, 3), (height, width), (height, width))
    assert (image.dtype, label.dtype, instances.dtype) == (np.uint8, np.uint8, np.int32)
    assert set(np.unique(label)) <= {*range(11), VOID}
    assert np.array_equal(instances > 0, (label != VOID) & (label > 0))
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:, 1:], np.s_[:-1, :-1])):
        decided = (label[a] != VOID) & (label[b] != VOID)
        assert (instances[a] == instances[b])[decided].all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "valid"}, ValueError, "split is 'valid'.*train, val, test"),
        ({"size": (32, 64)}, ValueError, "height in size is 32.*at least 33"),
        ({"size": 128}, TypeError, r"size is 128: give two integers, \(height, width\)"),
        ({"size": (128.0, 128)}, TypeError, "height in size is 128.0, a float: give an integer"),
        ({"length": 0}, ValueError, "length is 0: give an integer of at least 1"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": True}, TypeError, "seed is True, a bool"),
    ],
)
def test_bad_arguments_are_named_with_what_is_allowed(arguments, error, message):
    with pytest.raises(error, match=message):
        Scenes(**{"split": "train", **arguments})


def test_bad_indices_are_named_with_what_is_allowed():
    dataset = Scenes("test", length=5)
    with pytest.raises(IndexError, match=r"index 5 is out of range: .* 5 pictures, 0 to 4"):
        dataset.read(5)
    with pytest.raises(IndexError, match="index -6 is out of range"):
        dataset.name(-6)
    with pytest.raises(TypeError, match=r"index is 1\.5, a float"):
        dataset.name(1.5)


def test_instances_are_numbered_without_gaps_and_have_one_class_each(pictures):
    for _, label, instances in pictures:
        numbers = np.unique(instances[instances > 0])
        assert numbers.tolist() == list(range(1, len(numbers) + 1))
        assert 5 <= len(numbers) <= 12
        assert all(len(np.unique(label[instances == number])) == 1 for number in numbers)


def test_background_void_and_classes_have_their_shares(pictures):
    labels = np.stack([label for _, label, _ in pictures])
    counts = np.bincount(labels.ravel(), minlength=256)
    assert 0.04 < counts[VOID] / counts.sum() < 0.08
    assert 0.55 < counts[0] / counts[:VOID].sum() < 0.70
    for class_id in range(1, 11):
        presence = (labels == class_id).any(axis=(1, 2)).mean()
        low, high = (0.04, 0.18) if class_id == CRESCENT else (1 / 3, 1)
        assert low < presence < high, CLASSES[class_id]


def test_void_is_a_ring_of_one_pixel(pictures):
    void = np.concatenate([(label == VOID).ravel() for _, label, _ in pictures])
    beside = np.concatenate([dilate(instances > 0).ravel() for _, _, instances in pictures])
    assert beside[void].mean() > 0.97  # the rest: corners where a later object cut an earlier one's ring


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_of_a_shape_spread_over_a_factor_of_eight(objects, name):
    lengths = [np.sqrt(mask.sum()) for _, _, mask in objects[CLASS_ID[name]]]
    assert max(lengths) / min(lengths) > 8
    assert np.median(lengths) < max(lengths) / 2  # more small ones than big ones


def test_wires_are_thin_long_and_visible(objects):
    thin = [dilate(dilate(~mask)).all() for _, _, mask in objects[WIRE]]  # erosion by 5x5 leaves nothing
    long = [np.hypot(*np.ptp(np.argwhere(mask), axis=0)) > 64 for _, _, mask in objects[WIRE]]
    assert np.mean(thin) > 0.9
    assert np.mean(long) > 0.8
    narrowest = sorted((mask.sum() / dilate(mask).sum(), contrast(image, mask)) for image, _, mask in objects[WIRE])
    assert np.median([step for _, step in narrowest[: len(narrowest) // 4]]) > 3 * NOISE


def test_color_steps_at_every_objects_edge(objects):
    steps = [contrast(image, mask) for each in objects.values() for image, _, mask in each]
    assert np.median(steps) > 5 * NOISE
    assert np.percentile(steps, 10) > 1.5 * NOISE


def test_ground_has_edges_of_color_that_are_no_edges_of_objects(pictures):
    with_false_edges = 0
    for image, label, _ in pictures:
        step = np.abs(image[:, 4:].astype(int) - image[:, :-4]).max(axis=2)
        ground = np.lib.stride_tricks.sliding_window_view(label == 0, 5, axis=1).all(axis=2)
        with_false_edges += (ground & (step > 7 * NOISE)).sum() > 30
    assert with_false_edges > len(pictures) / 3


def test_seeds_lie_on_objects_and_pebbles_on_the_ground(objects):
    hosts = sorted(HOSTS)
    assert all(np.isin(label[outer_ring(mask)], hosts).any() for _, label, mask in objects[SEED])
    assert all((label[outer_ring(mask)] == 0).any() for _, label, mask in objects[PEBBLE])


def test_pebbles_and_seeds_look_the_same(objects):
    def statistics(class_id):
        colors = np.array([image[mask].mean(axis=0) for image, _, mask in objects[class_id]])
        areas = np.array([mask.sum() for _, _, mask in objects[class_id]])
        return colors.mean(axis=0), colors.std(axis=0), areas.mean(), len(areas)

    (mean, spread, area, count), (mean2, spread2, area2, count2) = statistics(PEBBLE), statistics(SEED)
    assert np.abs(mean - mean2).max() < 4 * spread.max() * np.sqrt(1 / count + 1 / count2)
    assert np.abs(spread / spread2 - 1).max() < 0.25
    assert area / area2 == pytest.approx(1, abs=0.15)
    assert count / count2 == pytest.approx(1, abs=0.3)


def test_objects_occlude_one_another(pictures):
    touching = 0
    for _, _, instances in pictures:
        shifted, here = instances[:, 2:], instances[:, :-2]  # two pixels apart: only a ring of void between
        touching += ((shifted != here) & (shifted > 0) & (here > 0)).sum() > 10
    assert touching > len(pictures) / 2


def pixel_features(image):
    """Color, position and the mean color of 3x3: [H * W, 8]."""
    height, width, _ = image.shape
    y, x = np.mgrid[:height, :width]
    padded = np.pad(image.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    mean = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1)).mean(axis=(3, 4))
    return np.concatenate([image, mean, y[..., None], x[..., None]], axis=2).reshape(-1, 8)


def test_color_and_position_tell_little(pictures):
    generator = np.random.default_rng(0)
    features, targets = [], []
    for image, label in map(Scenes("train").read, range(80)):
        chosen = generator.choice(np.flatnonzero(label != VOID), 600, replace=False)
        features.append(pixel_features(image)[chosen])
        targets.append(label.ravel()[chosen])
    classifier = HistGradientBoostingClassifier(max_iter=30, random_state=0)
    classifier.fit(np.concatenate(features), np.concatenate(targets))

    truth = np.concatenate([label.ravel() for _, label, _ in pictures[:25]])
    guess = classifier.predict(np.concatenate([pixel_features(image) for image, _, _ in pictures[:25]]))
    assert jaccard_score(truth[truth != VOID], guess[truth != VOID], average="macro", zero_division=0) < 0.25
