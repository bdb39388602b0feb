"""Pseudo labels and self-training: what is kept, what is never looked at, and what each round learns from."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.special import softmax
from short_training import short_config
from torch import nn

from deeplab_lesson import create_model
from deeplab_lesson.data import EvalTransform, Scenes, SegmentationDataset, TrainTransform, normalize
from deeplab_lesson.training import TrainConfig, TrainResult, self_training, train
from deeplab_lesson.training.checkpoint import STATE, load_state
from deeplab_lesson.training.pseudo_labels import Joined, PseudoLabels, UnlabeledPictures, class_thresholds
from deeplab_lesson.training.self_training import repeats, self_train

CLASSES = ("sky", "tree", "cow", "road")
VOID = 255


class Noise(SegmentationDataset):
    """Pictures of noise, of several sizes, with whatever labels."""

    classes = CLASSES

    def __init__(self, count: int = 3, label: int | None = None) -> None:
        self.count, self.label = count, label

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"noise_{index}"

    def read(self, index: int) -> tuple[Any, ...]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        random = np.random.default_rng(index)
        size = (20 + index, 30)
        image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        label = random.integers(0, 4, size, dtype=np.uint8)
        return image, label if self.label is None else np.full(size, self.label, np.uint8)


class Unreadable(Noise):
    """Its labels are of another size and hold ids that are no class."""

    def read(self, index: int) -> tuple[Any, ...]:
        return super().read(index)[0], np.full((3, 5), 77, np.uint8), "no instance map"


class OtherLabels(SegmentationDataset):
    """The pictures of a set with random labels."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset, self.classes = dataset, dataset.classes

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def read(self, index: int) -> tuple[Any, ...]:
        image, label = self.dataset.read(index)
        return image, np.random.default_rng(index).integers(0, 256, label.shape, dtype=np.uint8)


class Interrupting(OtherLabels):
    """Somebody presses Ctrl-C at a picture."""

    def __init__(self, dataset: SegmentationDataset, readings: int) -> None:
        super().__init__(dataset)
        self.readings = readings

    def read(self, index: int) -> tuple[Any, ...]:
        self.readings -= 1
        if self.readings < 0:
            raise KeyboardInterrupt
        return self.dataset.read(index)


def a_teacher(classes: int = 4, seed: int = 0) -> nn.Module:
    """A network whose answers differ from pixel to pixel, with BatchNorm and dropout in it."""
    torch.manual_seed(seed)
    teacher = nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2), nn.BatchNorm2d(8), nn.Dropout(), nn.Conv2d(8, classes, 5, padding=2)
    )
    nn.init.normal_(teacher[3].weight, std=0.15)
    return teacher


def answers_of(teacher: nn.Module, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class ids and probabilities, in float64 by SciPy."""
    with torch.no_grad():
        logits = teacher.eval()(normalize(image)[None])[0].double().numpy()
    probabilities = softmax(logits, axis=0)
    return probabilities.argmax(0), probabilities.max(0)


# the labels -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(st.lists(st.floats(0.25, 0.6), min_size=4, max_size=4), st.integers(0, 100))
def test_label_is_the_teachers_answer_where_it_reaches_its_classs_threshold(limits: list[float], seed: int) -> None:
    teacher, noise = a_teacher(seed=seed), Noise()
    pseudo = PseudoLabels(noise, teacher, limits)
    kept = pixels = 0
    for index in range(3):
        image, label = pseudo.read(index)
        classes, confidences = answers_of(teacher, noise.read(index)[0])
        surplus = confidences - np.array(limits)[classes]
        clear = np.abs(surplus) > 1e-5  # float32 rounds
        np.testing.assert_array_equal(image, noise.read(index)[0])
        np.testing.assert_array_equal(label[clear], np.where(surplus > 0, classes, VOID)[clear])
        kept, pixels = kept + (label != VOID).sum(), pixels + label.size
    assert pseudo.kept == kept / pixels


@pytest.mark.parametrize("other", [Noise(label=0), Noise(label=VOID), Unreadable()])
def test_labels_of_the_unlabeled_set_change_nothing(other: Noise) -> None:
    teacher = a_teacher()
    limits = class_thresholds(Noise(), teacher, 0.4)
    assert class_thresholds(other, teacher, 0.4) == limits
    one, two = PseudoLabels(Noise(), teacher, limits), PseudoLabels(other, teacher, limits)
    for index in range(3):
        np.testing.assert_array_equal(one.read(index)[1], two.read(index)[1])
        assert len(two.read(index)) == 2


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.95, 1.0])
def test_the_surest_share_of_each_classs_pixels_is_kept(share: float) -> None:
    teacher = a_teacher()
    pseudo = PseudoLabels(Noise(), teacher, class_thresholds(Noise(), teacher, share))
    answers = [answers_of(teacher, Noise().read(index)[0]) for index in range(3)]
    given_to = np.concatenate([classes.ravel() for classes, _ in answers])
    confidences = np.concatenate([values.ravel() for _, values in answers])
    labels = np.concatenate([label.ravel() for label in pseudo.labels])
    for class_id in range(4):
        count = math.ceil(share * (given_to == class_id).sum())
        assert 0 < count == (labels == class_id).sum()
        void = confidences[(given_to == class_id) & (labels == VOID)]
        assert void.max(initial=0) <= confidences[labels == class_id].min() + 1e-6


def test_one_threshold_for_all_keeps_less_of_a_class_that_is_hard_to_see() -> None:
    """Why there are thresholds by class."""
    teacher = a_teacher()
    with torch.no_grad():
        teacher[3].weight[2] *= 0.3

    def counts(limits: float | list[float]) -> np.ndarray:
        labels = np.concatenate([label.ravel() for label in PseudoLabels(Noise(), teacher, limits).labels])
        return np.bincount(labels, minlength=256)[:4]

    kept = counts(0.6) / counts(0.0)
    by_class = counts(class_thresholds(Noise(), teacher, 0.4)) / counts(0.0)
    assert kept[2] < 0.5 * min(kept[0], kept[1], kept[3])
    np.testing.assert_allclose(by_class, 0.4, atol=0.01)


def test_a_class_that_the_teacher_sees_nowhere_has_threshold_one() -> None:
    teacher = a_teacher()
    with torch.no_grad():
        teacher[3].bias[2] = -1000
    limits = class_thresholds(Noise(), teacher, 0.5)
    assert limits[2] == 1.0
    assert max(limits[:2] + limits[3:]) < 1


def test_pixel_stride_looks_at_every_so_manieth_pixel() -> None:
    class Thinned(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return teacher(images).repeat_interleave(3, 2).repeat_interleave(3, 3)

    class Large(Noise):
        def read(self, index: int) -> tuple[Any, ...]:
            return tuple(part.repeat(3, 0).repeat(3, 1) for part in super().read(index))

    teacher = a_teacher().eval()
    shown = Large()
    full = nn.Sequential(nn.AvgPool2d(3), teacher, nn.Upsample(scale_factor=3, mode="nearest"))
    np.testing.assert_allclose(
        class_thresholds(shown, full, 0.3, pixel_stride=3), class_thresholds(Noise(), teacher, 0.3), rtol=1e-5
    )


def test_all_pictures_are_labeled_by_the_teacher_as_it_was() -> None:
    teacher = a_teacher()
    pseudo = PseudoLabels(Noise(), teacher, 0.3)
    before = pseudo.read(1)[1].copy()
    nn.init.normal_(teacher[3].weight)
    np.testing.assert_array_equal(pseudo.read(1)[1], before)


def test_the_teacher_answers_in_eval_mode_and_is_left_as_it_was() -> None:
    teacher = a_teacher().train()
    teacher[2].eval()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    one, two = PseudoLabels(Noise(), teacher, 0.3), PseudoLabels(Noise(), teacher, 0.3)
    np.testing.assert_array_equal(one.read(0)[1], two.read(0)[1])  # no dropout
    assert [part.training for part in teacher] == [True, True, False, True]
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


# the interface ----------------------------------------------------------------------------------------------------


def test_pseudo_labels_are_read_like_any_set() -> None:
    scenes = Scenes("train", (48, 64), length=2)
    pseudo = PseudoLabels(scenes, a_teacher(11), 0.2, transform=EvalTransform())
    assert (len(pseudo), pseudo.classes, pseudo.name(1)) == (2, scenes.classes, scenes.name(1))
    assert pseudo.palette is scenes.palette
    image, label = pseudo[1]
    assert (image.dtype, image.shape, label.dtype, label.shape) == (torch.float32, (3, 48, 64), torch.int64, (48, 64))
    assert [label.dtype for _, label in PseudoLabels(scenes, a_teacher(11), 0.2)] == [np.uint8] * 2
    with pytest.raises(IndexError):
        pseudo.read(2)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.floats(0.5, 2))
def test_void_stays_void_under_random_views(seed: int, zoom: float) -> None:
    pseudo = Joined([PseudoLabels(Noise(1), a_teacher(), 0.45), Noise(1, label=VOID)])
    transform = TrainTransform((24, 24), (zoom, zoom))
    for index, allowed in ((0, set(np.unique(pseudo.read(0)[1])) | {VOID}), (1, {VOID})):
        _, label = transform(*pseudo.read(index), torch.Generator().manual_seed(seed))
        assert set(label.unique().tolist()) <= allowed
    assert VOID in pseudo.read(0)[1]
    assert len(np.unique(pseudo.read(0)[1])) > 2


def test_a_folder_without_labels_can_be_labeled(tmp_path: Path) -> None:
    for index in range(2):
        Image.fromarray(Noise().read(index)[0]).save(tmp_path / f"{index}.png")
    folder = UnlabeledPictures(tmp_path, CLASSES)
    assert (len(folder), folder.name(1), folder.classes) == (2, "1", CLASSES)
    assert (folder.read(1)[1] == VOID).all()
    from_files, from_noise = (PseudoLabels(data, a_teacher(), 0.4) for data in (folder, Noise(2)))
    for index in range(2):
        for one, two in zip(from_files.read(index), from_noise.read(index), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_pictures_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"{name} is not a folder" if name == "nowhere" else "holds no picture"):
        UnlabeledPictures(tmp_path / name, CLASSES)


def test_joined_sets_follow_one_another() -> None:
    first, second = Noise(2, label=VOID), Noise(3, label=1)
    joined = Joined([first, first, second])
    assert [joined.name(i) for i in range(7)] == [f"noise_{i}" for i in (0, 1, 0, 1, 0, 1, 2)]
    assert [int(label[0, 0]) for _, label in joined] == [VOID] * 4 + [1] * 3
    np.testing.assert_array_equal(joined.read(-1)[0], second.read(2)[0])
    with pytest.raises(IndexError):
        joined.read(7)
    scenes = Scenes("train", (48, 48), length=1)
    with_instances = Joined([scenes, Scenes("train", (48, 48), length=1, instances=True)])
    assert [len(parts) for parts in with_instances] == [2, 2]


# self-training ----------------------------------------------------------------------------------------------------

LABELED, UNLABELED = Scenes("train", (48, 48), length=2), Scenes("train", (48, 48), length=6, seed=1)
VAL = Scenes("val", (48, 48), length=2)


def tiny(out: Path, **changes: Any) -> TrainConfig:
    return short_config(out, steps=4, batch_size=2, crop=(33, 33), **changes)


def tiny_rounds(out: Path, unlabeled: SegmentationDataset = UNLABELED, **changes: Any) -> list[TrainResult]:
    return self_train(tiny(out), LABELED, unlabeled, val_set=VAL, **changes)


def same_weights(one: TrainResult, two: TrainResult) -> bool:
    theirs = two.model.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.model.state_dict().items())


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory: pytest.TempPathFactory) -> list[TrainResult]:
    return tiny_rounds(tmp_path_factory.mktemp("rounds") / "run", rounds=2)


def test_each_student_learns_from_the_labels_of_the_round_before(two_rounds: list[TrainResult], tmp_path: Path) -> None:
    by_hand = [train(tiny(tmp_path / "0"), train_set=LABELED, val_set=VAL)]
    for number in (1, 2):
        teacher = by_hand[-1].model
        pseudo = PseudoLabels(UNLABELED, teacher, class_thresholds(UNLABELED, teacher, 0.5))
        data = Joined([LABELED, pseudo])  # 2 of 8 pictures: the share of the labeled ones, without repeating them
        by_hand.append(train(tiny(tmp_path / str(number)), train_set=data, val_set=VAL))
    assert [result.out.name for result in two_rounds] == ["round_0", "round_1", "round_2"]
    assert all(same_weights(one, two) for one, two in zip(two_rounds, by_hand, strict=True))
    assert not same_weights(two_rounds[0], two_rounds[1])
    assert not same_weights(two_rounds[1], two_rounds[2])


def test_true_labels_of_unlabeled_pictures_do_not_reach_the_student(
    two_rounds: list[TrainResult], tmp_path: Path
) -> None:
    others = tiny_rounds(tmp_path / "run", OtherLabels(UNLABELED), rounds=1)
    assert same_weights(others[1], two_rounds[1])


def test_a_fixed_threshold_takes_the_place_of_the_share(two_rounds: list[TrainResult], tmp_path: Path) -> None:
    teacher = two_rounds[0].model
    threshold = min(class_thresholds(UNLABELED, teacher, 0.8))
    pseudo = PseudoLabels(UNLABELED, teacher, threshold)
    assert 0.01 < pseudo.kept < 0.99
    by_hand = train(tiny(tmp_path / "hand"), train_set=Joined([LABELED, pseudo]), val_set=VAL)
    assert same_weights(tiny_rounds(tmp_path / "run", threshold=threshold)[1], by_hand)
    assert not same_weights(by_hand, two_rounds[1])


def test_a_stopped_self_training_goes_on_to_the_same_weights(two_rounds: list[TrainResult], tmp_path: Path) -> None:
    def again(unlabeled: SegmentationDataset, **changes: Any) -> list[TrainResult]:
        rounds, share = changes.pop("rounds", 1), changes.pop("share", 0.5)
        config = tiny(tmp_path / "run", save_every=1, **changes)
        return self_train(config, LABELED, unlabeled, val_set=VAL, rounds=rounds, share=share)

    with pytest.raises(KeyboardInterrupt):  # twice six readings to label, so the fifteenth is one of the student's
        again(Interrupting(UNLABELED, readings=15))
    assert 0 < load_state(tmp_path / "run" / "round_1" / STATE)["step"] < 4
    with pytest.raises(ValueError, match=r"other settings: they were .*0\.5.*0\.4.*same ones"):
        again(UNLABELED, resume=True, share=0.4)
    resumed = again(UNLABELED, resume=True, rounds=2)
    assert all(same_weights(one, two) for one, two in zip(resumed, two_rounds, strict=True))


def test_nothing_follows_a_training_that_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*args: Any, **kwargs: Any) -> TrainResult:
        return replace(train(*args, **kwargs), finished=False)

    monkeypatch.setattr(self_training, "train", stopped)
    assert len(tiny_rounds(tmp_path / "run")) == 1


@given(st.integers(1, 300), st.integers(1, 3000), st.floats(0, 0.9))
def test_labeled_pictures_are_repeated_to_their_share(labeled: int, unlabeled: int, share: float) -> None:
    copies = repeats(labeled, unlabeled, share)
    error = [abs(n * labeled / (n * labeled + unlabeled) - share) for n in (copies - 1, copies, copies + 1)]
    odds = [abs(n * labeled / unlabeled - share / (1 - share)) for n in (copies - 1, copies, copies + 1)]
    assert copies >= 1
    assert odds[1] <= odds[2] + 1e-9
    assert copies == 1 or odds[1] <= odds[0] + 1e-9
    assert min(error) < 1


# what is refused --------------------------------------------------------------------------------------------------


class Broken(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.full((1, 4, *images.shape[2:]), torch.nan)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: PseudoLabels(Noise(), a_teacher(), [0.5] * 3), "allowed are a number from 0 to 1, or 4 of them.*cow"),
        (lambda: PseudoLabels(Noise(), a_teacher(), 1.5), r"thresholds=1\.5: allowed are a number from 0 to 1"),
        (lambda: PseudoLabels(Noise(), a_teacher(), math.nan), "thresholds=nan"),
        (lambda: PseudoLabels(Noise(), a_teacher(), [0.5, 0.5, 0.5, -0.1]), "-0.1"),
        (
            lambda: PseudoLabels(Noise(), a_teacher(), 1.0),
            "highest probability in 3 pictures is 0.9.* thresholds are 1, 1, 1, 1, so that no",
        ),
        (lambda: PseudoLabels(Noise(0), a_teacher()), "no unlabeled pictures"),
        (lambda: PseudoLabels(Noise(), a_teacher(7)), r"noise_0 the teacher's logits are \[1, 7, 20, 30\]: allowed is"),
        (lambda: PseudoLabels(Noise(), nn.Sequential(a_teacher(), nn.MaxPool2d(2))), r"allowed is \[1, 4, 20, 30\]"),
        (lambda: PseudoLabels(Noise(), Broken()), "logits for noise_0 are not finite.*another checkpoint"),
        (lambda: class_thresholds(Noise(), a_teacher(), 0), "share=0: allowed are numbers above 0 and at most 1"),
        (lambda: class_thresholds(Noise(), a_teacher(), 1.1), "share=1.1"),
        (lambda: class_thresholds(Noise(), a_teacher(), pixel_stride=0), "pixel_stride=0: allowed are whole numbers"),
        (lambda: class_thresholds(Noise(0), a_teacher()), "no unlabeled pictures"),
        (lambda: Joined([]), "no sets at all: allowed are the same classes"),
        (lambda: Joined([Noise(), UNLABELED]), r"\(sky, tree, cow, road\) and \(background, .*: allowed are the same"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rounds": 0}, "rounds=0, .*: allowed are rounds from 1"),
        ({"labeled_share": 1.0}, "labeled_share=1.0: allowed"),
        ({"share": 0.0}, "share=0.0: allowed"),
        ({"threshold": 2.0}, "thresholds=2.0: allowed"),
        ({"unlabeled": Noise()}, "same classes in the same order"),
        ({"unlabeled": Noise(0)}, "2 labeled and 0 unlabeled pictures: give one or more of each"),
        ({"config": TrainConfig(limit=5)}, "limit=5: self-training takes all pictures of both sets"),
    ],
)
def test_self_training_refuses_before_anything_is_trained(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    config = replace(changes.pop("config", None) or tiny(tmp_path), out=tmp_path / "run")
    arguments: dict[str, Any] = {"unlabeled": UNLABELED, "val_set": VAL, **changes}
    with pytest.raises(ValueError, match=text):
        self_train(config, LABELED, **arguments)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_self_training_is_not_overwritten(two_rounds: list[TrainResult]) -> None:
    with pytest.raises(ValueError, match="already holds a training"):
        tiny_rounds(two_rounds[0].out.parent)


def test_a_model_of_the_package_can_teach() -> None:
    torch.manual_seed(0)
    teacher = create_model("deeplabv3plus_mini", 11)
    assert PseudoLabels(UNLABELED, teacher, 0.05).kept == 1
