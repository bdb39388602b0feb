"""From picture files to label files: the answer is the model's, the files are readable, and nothing is lost."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deeplab_lesson.data import VOC_PALETTE, Scenes, normalize
from deeplab_lesson.inference import class_colors, find_pictures, overlay, predict, predict_files, with_legend
from deeplab_lesson.training.checkpoint import load_checkpoint, save_checkpoint


def noise(height: int = 50, width: int = 60) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise() if image is None else image).save(path)
    return path


@pytest.fixture(scope="module")
def model(checkpoint: Path):
    return load_checkpoint(checkpoint)[0]


# ---- one picture -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(33, 33), (50, 61), (128, 96)])
def test_prediction_is_the_argmax_of_the_logits_of_the_normalized_picture(model, size: tuple[int, int]) -> None:
    image = noise(*size)
    labels = predict(model, image)
    assert labels.dtype == np.uint8
    with torch.no_grad():
        expected = model(normalize(image)[None])[0].argmax(dim=0)
    np.testing.assert_array_equal(labels, expected.numpy())
    assert len(np.unique(labels)) > 1


def test_prediction_uses_eval_mode_and_gives_every_part_its_mode_back(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint)[0]
    expected = predict(model, noise())
    model.train()
    model.backbone.eval()  # as with a frozen trunk
    modes = [part.training for part in model.modules()]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    np.testing.assert_array_equal(predict(model, noise()), expected)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_modes_come_back_after_an_error(model) -> None:
    model.train()
    with pytest.raises(ValueError, match="33"):
        predict(model, noise(20, 20))
    assert all(part.training for part in model.modules())
    model.eval()


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (noise() / 255, TypeError, "float64: allowed is uint8 RGB"),
        (torch.zeros(3, 40, 40), TypeError, "float32: allowed is uint8"),
        ("cat.jpg", TypeError, "str: allowed is uint8"),
        (noise()[..., 0], ValueError, r"\(50, 60\): allowed is \(height, width, 3\)"),
        (noise().transpose(2, 0, 1), ValueError, r"\(3, 50, 60\): allowed is \(height, width, 3\)"),
    ],
)
def test_what_is_no_rgb_picture_is_refused(model, image, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        predict(model, image)


def test_overlay_colors_classes_and_leaves_background_and_void() -> None:
    image, labels = noise(), np.zeros((50, 60), dtype=np.uint8)
    labels[:10], labels[40:] = 1, 255
    shown = overlay(image, labels, opacity=0.5)
    np.testing.assert_array_equal(shown[10:], image[10:])
    expected = 0.5 * image[:10] + 0.5 * np.array([128, 0, 0])
    assert np.abs(shown[:10] - expected).max() <= 0.5
    assert shown.dtype == np.uint8


def test_overlay_of_labels_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[50, 60, 3\].*\[5, 6\].*one size"):
        overlay(noise(), np.zeros((5, 6), dtype=np.uint8))


def test_legend_lists_only_the_classes_that_are_present_largest_first() -> None:
    classes, labels = [f"class {i}" for i in range(8)], np.full((200, 200), 255, dtype=np.uint8)
    labels[:30], labels[30:40] = 4, 6
    page = with_legend(noise(200, 200), labels, classes, VOC_PALETTE)
    np.testing.assert_array_equal(page[:200, :200], noise(200, 200))
    column = page[:, 200:]
    places = {
        class_id: np.flatnonzero((column == VOC_PALETTE[class_id]).all(axis=2).sum(axis=1) > 5)
        for class_id in (1, 2, 3, 4, 5, 6, 7)
    }
    assert [class_id for class_id, rows in places.items() if rows.size] == [4, 6]
    assert places[4].max() < places[6].min()


def test_legend_of_a_picture_of_void_is_empty() -> None:
    page = with_legend(noise(), np.full((50, 60), 255, dtype=np.uint8), ["a"], VOC_PALETTE)
    assert (page[:, 60:] == 255).all()


# ---- finding pictures --------------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    for name in ("b.PNG", "a.jpg", "tief/im Wald/Bäume [1].png", "tief/c.webp"):
        save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / "._a.jpg").write_text("what macOS leaves")
    return folder


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["a.jpg"], ["a.jpg"]),
        (["."], ["a.jpg", "b.PNG"]),
        (["*"], ["a.jpg", "b.PNG"]),
        (["**/*.png"], ["tief/im Wald/Bäume [1].png"]),
        (["**"], ["a.jpg", "b.PNG", "tief/c.webp", "tief/im Wald/Bäume [1].png"]),
        (["tief/im Wald/Bäume [1].png"], ["tief/im Wald/Bäume [1].png"]),
        (["tief/im Wald", "a.jpg"], ["tief/im Wald/Bäume [1].png", "a.jpg"]),
        (["a.jpg", ".", "tief/../a.jpg"], ["a.jpg", "b.PNG"]),
    ],
)
def test_files_folders_and_globs_name_each_picture_once(album: Path, inputs: list[str], expected: list[str]) -> None:
    found = find_pictures([os.path.join(album, name) for name in inputs])
    assert [path.relative_to(album).as_posix() for path in found] == expected


def test_paths_may_be_path_objects_and_a_file_named_by_hand_may_end_as_it_likes(album: Path) -> None:
    assert find_pictures([album / "notes.txt"]) == [album / "notes.txt"]


@pytest.mark.parametrize("name", ["gone.png", "*.gif", "*.txt", "empty"])
def test_input_without_a_picture_is_named_with_the_endings(album: Path, name: str) -> None:
    (album / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"names no picture: allowed are files, folders.*\.jpg") as caught:
        find_pictures([album / "a.jpg", album / name])
    assert str(album / name) in str(caught.value)


# ---- files in, files out -----------------------------------------------------------------------------------


def test_label_file_holds_the_ids_and_the_sets_colors_and_the_overlay_stands_beside(
    checkpoint: Path, model, picture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "new"
    assert list(predict_files(checkpoint, [picture], out)) == [(picture, out / "picture.png")]
    with Image.open(out / "picture.png") as written:
        assert written.mode == "P"
        labels = np.array(written)
        shown = np.array(written.convert("RGB"))
    np.testing.assert_array_equal(labels, predict(model, np.array(Image.open(picture))))
    np.testing.assert_array_equal(shown, Scenes.palette[labels])
    with Image.open(out / "picture_overlay.png") as page:
        assert page.height >= 50
        assert page.width > 60
    assert len(list(out.iterdir())) == 2


def test_pictures_of_every_kind_get_labels_of_their_size(checkpoint: Path, tmp_path: Path) -> None:
    for mode, name in [("L", "gray.png"), ("CMYK", "print.jpg"), ("RGBA", "clear.webp"), ("1", "fax.tif")]:
        Image.fromarray(noise()).convert(mode).save(tmp_path / name)
    save(tmp_path / "Bäume im Wald.png")
    save(tmp_path / "wide.png", noise(33, 2000))
    (tmp_path / "notes.txt").touch()
    done = dict(predict_files(checkpoint, [tmp_path], tmp_path / "out"))
    assert len(done) == 6
    for path, target in done.items():
        assert Image.open(target).size == Image.open(path).size
        assert target.stem == path.stem


def test_picture_with_an_exif_orientation_is_turned_upright(checkpoint: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise()).save(tmp_path / "a.jpg", exif=exif)
    ((_, target),) = predict_files(checkpoint, [tmp_path / "a.jpg"], tmp_path / "out")
    assert Image.open(target).size == (50, 60)


def test_picture_below_33_pixels_is_named(checkpoint: Path, tmp_path: Path) -> None:
    save(tmp_path / "small.png", noise(20, 100))
    with pytest.raises(ValueError, match=r"small\.png: images are 20x100 \(height x width\).*at least 33.*enlarge"):
        list(predict_files(checkpoint, [tmp_path / "small.png"], tmp_path / "out"))


def test_text_file_named_by_hand_is_refused_and_what_was_done_before_stays(checkpoint: Path, album: Path) -> None:
    inputs = [album / "a.jpg", album / "notes.txt", album / "b.PNG"]
    with pytest.raises(ValueError, match=r"notes\.txt cannot be read as a picture"):
        list(predict_files(checkpoint, inputs, album / "out"))
    assert sorted(path.name for path in (album / "out").iterdir()) == ["a.png", "a_overlay.png"]


@pytest.mark.parametrize("names", [("x/a.png", "y/a.jpg"), ("x/a.png", "y/A.png"), ("x/a.png", "x/a_overlay.png")])
def test_pictures_whose_results_would_have_one_name_are_refused(
    checkpoint: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    inputs = [save(tmp_path / name) for name in names]
    with pytest.raises(ValueError, match=r"results of .*x/a\.png and .* would overwrite one another: rename"):
        list(predict_files(checkpoint, inputs, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_results_never_overwrite_the_pictures_or_labels_made_by_hand(checkpoint: Path, voc_copy: Path) -> None:
    before = {path: path.read_bytes() for path in voc_copy.rglob("*.png")}
    for folder in ("JPEGImages", "SegmentationClass"):
        with pytest.raises(ValueError, match=r"train_00000\.png is there already.*overwritten.*another folder"):
            list(predict_files(checkpoint, [voc_copy / "JPEGImages"], voc_copy / folder))
    assert {path: path.read_bytes() for path in voc_copy.rglob("*.png")} == before


def test_results_of_an_earlier_prediction_are_replaced(checkpoint: Path, picture: Path, tmp_path: Path) -> None:
    list(predict_files(checkpoint, [picture], tmp_path / "out"))
    first = (tmp_path / "out" / "picture.png").read_bytes()
    save(picture, noise(70, 40))
    list(predict_files(checkpoint, [picture], tmp_path / "out"))
    assert (tmp_path / "out" / "picture.png").read_bytes() != first


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "names no classes or no colors"),
        ({"classes": ["a", "b"], "palette": "blue"}, "names no classes or no colors"),
        ({"classes": ["a", "b"], "palette": [[0, 0, 0], [1, 2, 300]]}, "colors are 0 to 300: allowed are 0 to 255"),
        ({"classes": ["a"], "palette": [[0, 0, 0], [1, 2, 3]]}, "1 classes and 2 colors for a model of 2"),
        ({"classes": ["a", "b"], "palette": [[0, 0, 0]]}, "2 classes and 1 colors for a model of 2"),
    ],
)
def test_checkpoint_without_fitting_names_and_colors_is_refused(metadata: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_colors({"model": {"num_classes": 2}, **metadata})


def test_checkpoint_without_class_names_is_refused_by_name_of_the_fault(
    checkpoint: Path, picture: Path, tmp_path: Path
) -> None:
    model, _ = load_checkpoint(checkpoint)
    save_checkpoint(tmp_path / "bare.safetensors", model, {})
    with pytest.raises(ValueError, match="names no classes or no colors"):
        list(predict_files(tmp_path / "bare.safetensors", [picture], tmp_path / "out"))
