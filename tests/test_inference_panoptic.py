"""Objects: a model that knows them gets them numbered, in arrays and in files; other models are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made_models import Pixelwise, TrueObjects
from PIL import Image

from deeplab_lesson import create_model
from deeplab_lesson.data import VOC_PALETTE, Scenes
from deeplab_lesson.data.files import write_picture
from deeplab_lesson.inference import outline, overlay, predict_panoptic, predict_panoptic_files, with_legend
from deeplab_lesson.metrics import PanopticQuality

THINGS = range(1, 11)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes("val", (96, 112), length=4, instances=True)


@pytest.fixture(scope="module")
def model(scenes: Scenes) -> TrueObjects:
    return TrueObjects(scenes)


def metadata(classes: int = 11) -> dict:
    return {
        "model": {"num_classes": classes},
        "classes": list(Scenes.classes[:classes]),
        "palette": VOC_PALETTE[:classes].tolist(),
    }


# ---- one picture -------------------------------------------------------------------------------------------


def test_model_that_knows_its_objects_gets_almost_all_of_them(model: TrueObjects, scenes: Scenes) -> None:
    score = PanopticQuality(11, things=THINGS)
    for image, label, true in (scenes.read(index) for index in range(len(scenes))):
        semantic, instances = predict_panoptic(model, image)
        assert (semantic.dtype, instances.dtype) == (np.uint8, np.uint16)
        assert semantic.shape == instances.shape == image.shape[:2]
        pair = np.stack([semantic, instances], -1).astype(np.int64), np.stack([label, true], -1).astype(np.int64)
        score.update(*map(torch.from_numpy, pair))
    assert score.mean_things > 0.9  # not 1: objects whose centers meet are one


def test_pixels_of_an_object_have_one_class_and_the_rest_is_background_or_void(scenes: Scenes) -> None:
    torch.manual_seed(0)
    untrained = create_model("panoptic_deeplab_mini", 11)
    with torch.no_grad():
        untrained.center[-1].bias.fill_(0.2)  # peaks everywhere
    semantic, instances = predict_panoptic(untrained, scenes.read(0)[0])
    assert instances.max() > 1
    for number in np.unique(instances[instances > 0]):
        assert len(np.unique(semantic[instances == number])) == 1
    assert set(np.unique(semantic[instances == 0])) <= {0, 255}


def test_class_that_is_no_thing_has_no_objects(model: TrueObjects, scenes: Scenes) -> None:
    image, label, _ = scenes.read(0)
    every, numbers = predict_panoptic(model, image)
    disks = int(np.bincount(every[numbers > 0]).argmax())
    semantic, instances = predict_panoptic(model, image, things=[disks])
    assert (semantic[instances > 0] == disks).all()
    assert (instances[label == disks] > 0).all()
    _, none = predict_panoptic(model, image, things=[])
    assert not none.any()


def test_picture_without_a_center_has_no_objects_and_void_in_their_place(scenes: Scenes) -> None:
    class Blind(TrueObjects):
        def forward_heads(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            heads = super().forward_heads(images)
            return {**heads, "center": torch.zeros_like(heads["center"])}

    image, label, _ = scenes.read(0)
    semantic, instances = predict_panoptic(Blind(scenes), image)
    assert not instances.any()
    assert (semantic[(label > 0) & (label < 255)] == 255).all()


def test_model_gets_its_mode_back(scenes: Scenes) -> None:
    model = create_model("panoptic_deeplab_mini", 11).train()
    predict_panoptic(model, scenes.read(0)[0])
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize("name", ["deeplabv3plus_mini", "fcn8s_mini"])
def test_model_that_tells_no_objects_apart_is_refused_with_those_that_do(name: str, scenes: Scenes) -> None:
    with pytest.raises(TypeError, match=rf"{name} .*no objects apart: allowed are panoptic_.*_mini and panoptic_"):
        predict_panoptic(create_model(name, 11), scenes.read(0)[0])


def test_impossible_input_is_refused(model: TrueObjects, scenes: Scenes) -> None:
    image = scenes.read(0)[0]
    with pytest.raises(ValueError, match=r"things hold the ids \[3, 11\]: allowed are class ids from 0 to 10"):
        predict_panoptic(model, image, things=[11, 3])
    with pytest.raises(TypeError, match="float64: allowed is uint8 RGB"):
        predict_panoptic(model, image / 255)


# ---- outlines and legend -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint16, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 3)))
def test_outline_is_the_pixels_of_objects_that_touch_something_else(instances: np.ndarray) -> None:
    height, width = instances.shape
    drawn = outline(np.zeros((height, width, 3), dtype=np.uint8), instances, (1, 2, 3))
    for y in range(height):
        for x in range(width):
            around = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            others = [instances[p] != instances[y, x] for p in around if 0 <= p[0] < height and 0 <= p[1] < width]
            expected = [1, 2, 3] if instances[y, x] and any(others) else [0, 0, 0]
            assert drawn[y, x].tolist() == expected


def test_outline_of_another_size_is_refused_and_the_picture_stays_as_it_was() -> None:
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    outline(picture, np.eye(4, dtype=np.uint16))
    assert not picture.any()
    with pytest.raises(ValueError, match=r"\[4, 4, 3\] and the labels \[5, 4\].*one size"):
        outline(picture, np.zeros((5, 4), dtype=np.uint16))


def test_legend_grows_by_the_number_of_objects() -> None:
    labels = np.ones((60, 60), dtype=np.uint8)
    picture = np.zeros((60, 60, 3), dtype=np.uint8)
    plain = with_legend(picture, labels, ["a", "b"], VOC_PALETTE)
    counted = with_legend(picture, labels, ["a", "b"], VOC_PALETTE, np.ones((60, 60), dtype=np.uint16))
    assert counted.shape[1] > plain.shape[1]
    none = with_legend(picture, labels, ["a", "b"], VOC_PALETTE, np.zeros((60, 60), dtype=np.uint16))
    np.testing.assert_array_equal(none, plain)


# ---- files -------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(scenes: Scenes, tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for index in range(2):
        Image.fromarray(scenes.read(index)[0]).save(tmp_path / "in" / f"{scenes.name(index)}.png")
    return tmp_path / "in"


def test_files_hold_classes_and_numbers_and_the_overlay_has_the_outlines(
    model: TrueObjects, scenes: Scenes, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = list(predict_panoptic_files(model, metadata(), [pictures], out))
    assert done == [(pictures / f"val_0000{i}.png", out / f"val_0000{i}.png") for i in range(2)]
    for index, (source, target) in enumerate(done):
        semantic, instances = predict_panoptic(model, scenes.read(index)[0])
        with Image.open(target) as labels, Image.open(out / f"{source.stem}_instances.png") as numbers:
            assert (labels.mode, numbers.mode) == ("P", "I;16")
            np.testing.assert_array_equal(np.array(labels), semantic)
            np.testing.assert_array_equal(np.array(numbers), instances)
        expected = outline(overlay(scenes.read(index)[0], semantic), instances)
        with Image.open(out / f"{source.stem}_overlay.png") as page:
            np.testing.assert_array_equal(np.array(page)[:96, :112], expected)
    assert len(list(out.iterdir())) == 6


def test_numbers_above_255_survive_the_file(tmp_path: Path) -> None:
    numbers = np.arange(1000, dtype=np.uint16).reshape(20, 50)
    write_picture(tmp_path / "a.png", Image.fromarray(numbers))
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "a.png")), numbers)


def test_things_are_handed_on(model: TrueObjects, pictures: Path, tmp_path: Path) -> None:
    list(predict_panoptic_files(model, metadata(), [pictures], tmp_path / "out", things=iter([])))
    for path in (tmp_path / "out").glob("*_instances.png"):
        assert not np.array(Image.open(path)).any()


def test_nothing_is_written_where_the_model_or_the_names_do_not_fit(
    model: TrueObjects, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match="pixelwise gives classes and tells no objects apart"):
        list(predict_panoptic_files(Pixelwise(11), metadata(), [pictures], tmp_path / "out"))
    Image.new("RGB", (40, 40)).save(pictures / "val_00000_instances.png")
    with pytest.raises(ValueError, match=r"results of .*val_00000\.png and .*val_00000_instances\.png would overwrite"):
        list(predict_panoptic_files(model, metadata(), [pictures], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_numbers_never_overwrite_a_file_that_is_no_result(model: TrueObjects, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "val_00000_instances.png").write_text("mine")
    with pytest.raises(ValueError, match=r"val_00000_instances\.png is there already and is no earlier result"):
        list(predict_panoptic_files(model, metadata(), [pictures], tmp_path / "out"))
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["mine"]
