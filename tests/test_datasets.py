"""Folders of labeled pictures and the procedural scenes are read through one interface; bad folders are explained."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from deeplab_lesson.data import VOC2012, VOC_CLASSES, CamVid, EvalTransform, ImageMaskFolder, Scenes, VOCFolder
from deeplab_lesson.data.export import export_voc
from deeplab_lesson.data.files import write_label
from deeplab_lesson.training.config import open_dataset

SIZE = (48, 64)


def small_scenes(split: str = "train", transform=None) -> Scenes:
    return Scenes(split, SIZE, length=4 if split == "train" else 2, transform=transform)


def labels_of(folder: Path) -> Path:
    return folder / "SegmentationClass"


def pictures_of(folder: Path) -> Path:
    return folder / "JPEGImages"


def split_list(folder: Path, split: str = "train") -> Path:
    return folder / "ImageSets" / "Segmentation" / f"{split}.txt"


# ---- one interface -----------------------------------------------------------------------------------------


@pytest.fixture(params=["voc", "folder", "scenes"])
def opened(request: pytest.FixtureRequest):
    """The same four scenes as a VOC folder, as image and mask folders, and drawn anew."""
    makers = {
        "voc": lambda transform: VOCFolder(request.getfixturevalue("voc_folder"), transform=transform),
        "folder": lambda transform: ImageMaskFolder(request.getfixturevalue("mask_folder"), transform=transform),
        "scenes": lambda transform: small_scenes(transform=transform),
    }
    return makers[request.param]


def test_without_transform_there_are_uint8_arrays_of_one_size(opened) -> None:
    dataset = opened(None)
    assert len(dataset) == 4
    image, label = dataset[0]
    assert (image.shape, label.shape) == ((*SIZE, 3), SIZE)
    assert image.dtype == label.dtype == np.uint8


def test_with_transform_there_are_normalized_tensors(opened) -> None:
    image, label = opened(EvalTransform())[1]
    assert (image.shape, label.shape) == ((3, *SIZE), SIZE)
    assert (image.dtype, label.dtype) == (torch.float32, torch.int64)
    assert abs(float(image.mean())) < 2.2  # black is -2.1 and white 2.6
    np.testing.assert_array_equal(label.numpy(), opened(None)[1][1])


def test_every_reader_gives_the_same_pictures_names_and_classes(opened) -> None:
    dataset, scenes = opened(None), small_scenes()
    assert tuple(dataset.classes) == tuple(scenes.classes)
    for index in range(len(scenes)):
        assert dataset.name(index) == scenes.name(index)
        for part, expected in zip(dataset[index], scenes[index], strict=True):
            np.testing.assert_array_equal(part, expected)


def test_picture_of_a_dataset_is_not_turned_by_its_exif_note(mask_copy: Path) -> None:
    path = mask_copy / "train" / "images" / "train_00000.png"
    before = ImageMaskFolder(mask_copy).read(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(before[0]).save(path, exif=exif)
    after = ImageMaskFolder(mask_copy).read(0)
    np.testing.assert_array_equal(after[0], before[0])


# ---- export ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_export_and_reading_give_back_every_bit(voc_folder: Path, split: str) -> None:
    scenes, folder = small_scenes(split), VOCFolder(voc_folder, split)
    assert len(folder) == len(scenes)
    for index in range(len(scenes)):
        assert folder.name(index) == scenes.name(index)
        for part, expected in zip(folder[index], scenes[index], strict=True):
            np.testing.assert_array_equal(part, expected)
    assert folder.classes == tuple(scenes.classes)
    shown = [*range(len(scenes.classes)), 255]
    np.testing.assert_array_equal(folder.palette[shown], scenes.palette[shown])


def test_export_of_an_exported_folder_gives_the_same_pictures_lists_and_class_names(
    voc_folder: Path, tmp_path: Path
) -> None:
    export_voc(tmp_path / "again", {split: VOCFolder(voc_folder, split) for split in ("train", "val")})
    for part in ("JPEGImages/val_00001.png", "ImageSets/Segmentation/train.txt", "classes.txt"):
        assert (tmp_path / "again" / part).read_bytes() == (voc_folder / part).read_bytes()


def test_export_counts_pictures_and_refuses_a_folder_in_use(tmp_path: Path) -> None:
    assert export_voc(tmp_path, {"train": small_scenes(), "val": small_scenes("val")}) == 6
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="JPEGImages is there already: give a new folder"):
        export_voc(tmp_path, {"test": small_scenes()})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["SegmentationClass/mine.png", "ImageSets/Segmentation/train.txt", "classes.txt"])
def test_export_overwrites_neither_labels_nor_lists_nor_class_names(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        export_voc(tmp_path, {"train": small_scenes()})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_export_refuses_sets_of_different_classes(tmp_path: Path, mask_folder: Path) -> None:
    other = ImageMaskFolder(mask_folder, classes=[f"c{i}" for i in range(11)])
    with pytest.raises(ValueError, match=r"'val' has the classes c0, c1.*another split background.*export them apart"):
        export_voc(tmp_path, {"train": small_scenes(), "val": other})
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_pictures_of_one_name_that_would_overwrite_one_another(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'train' and 'val' both have a picture train_00000"):
        export_voc(tmp_path, {"train": small_scenes(), "val": small_scenes()})
    assert list(tmp_path.iterdir()) == []


def test_export_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no set is given"):
        export_voc(tmp_path, {})


# ---- VOC's layout ------------------------------------------------------------------------------------------


def test_voc_folder_has_vocs_21_classes_unless_told_otherwise(voc_copy: Path) -> None:
    (voc_copy / "classes.txt").unlink()
    assert VOCFolder(voc_copy).classes == VOC_CLASSES
    assert VOCFolder(voc_copy, classes=list("abcdefghijk")).classes == tuple("abcdefghijk")


def test_names_with_spaces_and_umlauts_and_other_files_beside_the_pictures_are_no_trouble(voc_copy: Path) -> None:
    for folder in (pictures_of(voc_copy), labels_of(voc_copy)):
        (folder / "train_00000.png").rename(folder / "Straße am Abend.png")
        (folder / "Straße am Abend.xml").touch()
        (folder / "._train_00001.png").touch()
    split_list(voc_copy).write_text("\ufeffStraße am Abend\r\n\r\ntrain_00001\r\n", encoding="utf-8")
    dataset = VOCFolder(voc_copy)
    assert [dataset.name(index) for index in range(2)] == ["Straße am Abend", "train_00001"]
    np.testing.assert_array_equal(dataset[0][0], small_scenes()[0][0])


def test_list_directly_in_imagesets_is_found(voc_copy: Path) -> None:
    split_list(voc_copy).rename(voc_copy / "ImageSets" / "mine.txt")
    assert len(VOCFolder(voc_copy, "mine")) == 4


@pytest.mark.parametrize(
    ("cls", "layout"),
    [(VOCFolder, "JPEGImages/, SegmentationClass/ and ImageSets/"), (ImageMaskFolder, "train/images, train/masks")],
)
def test_missing_folder_is_named_with_the_layout(cls, layout: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"nowhere is not a folder: .*{layout}"):
        cls(tmp_path / "nowhere")


@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass", "ImageSets"])
def test_missing_part_of_vocs_layout_is_named(folder: str, voc_copy: Path) -> None:
    (voc_copy / folder).rename(voc_copy / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"has no folder {folder}: VOC's layout is JPEGImages"):
        VOCFolder(voc_copy)


def test_missing_split_list_names_those_that_exist(voc_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no list for the split 'test'.*test\.txt.*there are train, val"):
        VOCFolder(voc_folder, "test")


def test_empty_split_list_is_named(voc_copy: Path) -> None:
    split_list(voc_copy).write_text("\n \n")
    with pytest.raises(ValueError, match=r"train\.txt lists no picture: write one name a line"):
        VOCFolder(voc_copy)


def test_listed_name_without_label_or_picture_is_named(voc_copy: Path) -> None:
    (labels_of(voc_copy) / "train_00001.png").unlink()
    (pictures_of(voc_copy) / "train_00002.png").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        VOCFolder(voc_copy)
    text = str(caught.value)
    assert "label without a picture: train_00002;" in text
    assert "picture without a label: train_00001." in text
    assert str(split_list(voc_copy)) in text
    assert "add the missing files" in text


def test_many_missing_labels_are_counted_not_listed(voc_copy: Path) -> None:
    split_list(voc_copy).write_text("".join(f"x{i:02d}\n" for i in range(20)))
    with pytest.raises(FileNotFoundError, match="x00, x01, x02, x03, x04 and 15 more"):
        VOCFolder(voc_copy)


def test_two_pictures_of_one_name_are_refused(voc_copy: Path) -> None:
    Image.new("RGB", (64, 48)).save(pictures_of(voc_copy) / "train_00000.jpg")
    with pytest.raises(ValueError, match=r"train_00000\.jpg and train_00000\.png: names must differ"):
        VOCFolder(voc_copy)


# ---- image and mask folders --------------------------------------------------------------------------------


def test_image_mask_folder_wants_names(mask_copy: Path) -> None:
    (mask_copy / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"classes\.txt does not exist: write the class names"):
        ImageMaskFolder(mask_copy)
    assert ImageMaskFolder(mask_copy, classes=VOC_CLASSES).classes == VOC_CLASSES


def test_one_text_is_no_list_of_classes(mask_folder: Path) -> None:
    with pytest.raises(TypeError, match="'cat' is one text: give a tuple"):
        ImageMaskFolder(mask_folder, classes="cat")


def test_missing_split_folder_names_those_that_exist(mask_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"test/images is not a folder: .*splits found: train, val"):
        ImageMaskFolder(mask_folder, "test")


def test_empty_split_folder_names_the_endings(mask_copy: Path) -> None:
    for path in (mask_copy / "train").rglob("*.png"):
        path.unlink()
    (mask_copy / "train" / "images" / "a.gif").touch()
    with pytest.raises(ValueError, match=r"images holds no picture: allowed endings are \.jpg, "):
        ImageMaskFolder(mask_copy)


def test_picture_without_mask_and_mask_without_picture_are_named(mask_copy: Path) -> None:
    (mask_copy / "train" / "masks" / "train_00003.png").unlink()
    (mask_copy / "train" / "images" / "train_00000.png").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        ImageMaskFolder(mask_copy)
    assert "label without a picture: train_00000;" in str(caught.value)
    assert "picture without a label: train_00003." in str(caught.value)


# ---- bad files ---------------------------------------------------------------------------------------------


def test_different_sizes_are_said_with_both_files(voc_copy: Path) -> None:
    path = labels_of(voc_copy) / "train_00000.png"
    write_label(path, np.zeros((24, 32), dtype=np.uint8), small_scenes().palette)
    with pytest.raises(ValueError, match="size") as caught:
        VOCFolder(voc_copy).read(0)
    for part in (str(path), str(pictures_of(voc_copy) / path.name), "is 64x48", "is 32x24", "nearest-neighbor"):
        assert part in str(caught.value)


def test_turned_label_gets_the_hint_about_cameras(voc_copy: Path) -> None:
    path = labels_of(voc_copy) / "train_00000.png"
    write_label(path, np.zeros((64, 48), dtype=np.uint8), small_scenes().palette)
    with pytest.raises(ValueError, match=r"64x48.*48x64.*EXIF.*upright"):
        VOCFolder(voc_copy).read(0)


def test_label_outside_the_named_classes_is_said_with_its_file(voc_folder: Path) -> None:
    dataset = VOCFolder(voc_folder, classes=("background", "disk"))
    index = next(i for i, (_, label) in enumerate(map(small_scenes().read, range(4))) if (label[label < 255] > 1).any())
    with pytest.raises(ValueError, match=rf"SegmentationClass/train_0000{index}\.png holds label id .*0 to 1 and 255"):
        dataset.read(index)


@pytest.mark.parametrize("part", [pictures_of, labels_of])
@pytest.mark.parametrize("content", [b"", b"text"])
def test_bad_file_of_a_set_is_named(part, content: bytes, voc_copy: Path) -> None:
    path = part(voc_copy) / "train_00002.png"
    path.write_bytes(content)
    dataset = VOCFolder(voc_copy)
    dataset.read(1)
    with pytest.raises(ValueError, match=f"{path} cannot be read as a picture"):
        dataset.read(2)


# ---- public sets and names ---------------------------------------------------------------------------------


def test_camvid_has_segnets_11_classes_and_colors(voc_copy: Path) -> None:
    dataset = CamVid(voc_copy)
    assert dataset.classes == (
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    )  # fmt: skip
    assert dataset.palette[3].tolist() == [128, 64, 128]
    assert dataset.palette[255].tolist() == [0, 0, 0]
    assert len({tuple(color) for color in dataset.palette[:11].tolist()}) == 11
    assert dataset[0][1].shape == SIZE


def test_voc2012_without_its_folder_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"VOCdevkit/VOC2012 is not a folder.*download=True.*--download"):
        VOC2012(tmp_path)


def test_voc2012_has_no_public_test_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'test': allowed are train, val, trainval"):
        VOC2012(tmp_path, "test")


def test_voc2012_download_is_torchvisions_and_then_the_layout_is_read(
    voc_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fetch(root: str, **options: object) -> None:
        calls.append((root, options))
        (tmp_path / "VOCdevkit").mkdir()
        (tmp_path / "VOCdevkit" / "VOC2012").symlink_to(voc_folder)

    monkeypatch.setattr(torchvision.datasets, "VOCSegmentation", fetch)
    dataset = VOC2012(tmp_path, "val", download=True)
    assert calls == [(str(tmp_path), {"year": "2012", "image_set": "val", "download": True})]
    assert len(dataset) == 2
    assert dataset.classes == VOC_CLASSES
    np.testing.assert_array_equal(dataset[0][0], small_scenes("val")[0][0])
    assert len(VOC2012(tmp_path, "train")) == 4
    assert len(calls) == 1


@pytest.mark.parametrize("error", [RuntimeError("File not found or corrupted."), OSError("no route to host")])
def test_failed_download_says_what_to_do(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(root: str, **options: object) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets, "VOCSegmentation", fetch)
    with pytest.raises(OSError, match=rf"could not be fetched into .*{error}.*network.*by hand"):
        VOC2012(tmp_path, download=True)


def test_data_are_opened_by_name(voc_folder: Path, mask_folder: Path) -> None:
    assert type(open_dataset("scenes", "val")) is Scenes
    assert type(open_dataset("voc", "val", voc_folder)) is VOCFolder
    assert type(open_dataset("camvid", "val", str(voc_folder))) is CamVid
    assert len(open_dataset("folder", "train", mask_folder)) == 4


def test_unknown_data_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data 'coco': allowed are scenes, voc2012, camvid, folder, voc"):
        open_dataset("coco", "train", tmp_path)


@pytest.mark.parametrize("data", ["voc", "folder", "camvid", "voc2012"])
def test_missing_root_is_asked_for(data: str) -> None:
    with pytest.raises(ValueError, match=r"needs a folder: give root=.*--root FOLDER"):
        open_dataset(data, "train")
