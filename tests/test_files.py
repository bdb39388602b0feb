"""One picture or label file: every usual kind is read, and what is wrong with a bad one is said with its name."""

import errno
import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab_lesson.data import VOC_CLASSES, VOC_PALETTE, colorize
from deeplab_lesson.data.files import picture_files, read_image, read_label, write_atomically, write_label
from deeplab_lesson.data.palette import read_classes

IDS = np.array([[0, 1, 2, 255], [20, 15, 9, 3]], dtype=np.uint8)


def noise(height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def palette_picture(ids: np.ndarray = IDS) -> Image.Image:
    picture = Image.fromarray(ids)
    picture.putpalette(VOC_PALETTE.tobytes())
    return picture


def voc_label(path: Path) -> np.ndarray:
    return read_label(path, VOC_CLASSES, VOC_PALETTE)


def gray_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


# ---- the color map -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_id", "color"),
    [
        (0, (0, 0, 0)),
        (1, (128, 0, 0)),
        (2, (0, 128, 0)),
        (3, (128, 128, 0)),
        (4, (0, 0, 128)),
        (5, (128, 0, 128)),
        (6, (0, 128, 128)),
        (7, (128, 128, 128)),
        (8, (64, 0, 0)),
        (12, (64, 0, 128)),
        (15, (192, 128, 128)),
        (16, (0, 64, 0)),
        (20, (0, 64, 128)),
        (255, (224, 224, 192)),
    ],
)
def test_palette_has_the_colors_of_the_voc_kit(class_id: int, color: tuple[int, ...]) -> None:
    assert tuple(VOC_PALETTE[class_id]) == color


def test_all_256_colors_are_distinct_and_voc_has_21_classes() -> None:
    assert VOC_PALETTE.shape == (256, 3)
    assert VOC_PALETTE.dtype == np.uint8
    assert len({tuple(color) for color in VOC_PALETTE.tolist()}) == 256
    assert len(VOC_CLASSES) == len(set(VOC_CLASSES)) == 21
    assert VOC_CLASSES[15] == "person"


def test_colorize_gives_each_id_its_color() -> None:
    assert colorize(IDS)[0, 1].tolist() == [128, 0, 0]
    assert colorize(IDS)[0, 3].tolist() == [224, 224, 192]


# ---- labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "picture",
    [
        palette_picture(),
        Image.fromarray(IDS),
        Image.fromarray(IDS.astype(np.uint16)),
        Image.fromarray(colorize(IDS)),
        Image.fromarray(colorize(IDS)).convert("RGBA"),
    ],
    ids=["palette", "gray", "16 bits", "RGB", "RGBA"],
)
def test_label_files_of_five_kinds_give_the_same_ids(picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "label.png")
    ids = voc_label(tmp_path / "label.png")
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, IDS)


def test_32_bit_label_is_read(tmp_path: Path) -> None:
    Image.fromarray(IDS.astype(np.int32)).save(tmp_path / "label.tif")
    np.testing.assert_array_equal(voc_label(tmp_path / "label.tif"), IDS)


def test_rgb_label_is_translated_by_the_colors_that_the_set_gives(tmp_path: Path) -> None:
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:2] = [[255, 255, 0], [0, 0, 255]]
    ids = np.array([[0, 1], [1, 255]], dtype=np.uint8)
    Image.fromarray(colorize(ids, palette)).save(tmp_path / "label.png")
    np.testing.assert_array_equal(read_label(tmp_path / "label.png", ("field", "water"), palette), ids)


def test_written_label_holds_the_ids_and_shows_the_colors(tmp_path: Path) -> None:
    path = tmp_path / "new" / "label.png"
    write_label(path, IDS, VOC_PALETTE)
    with Image.open(path) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.array(picture), IDS)
        np.testing.assert_array_equal(np.array(picture.convert("RGB")), colorize(IDS))


@pytest.mark.parametrize("wrong", [21, 100, 254])
def test_label_id_outside_the_classes_is_named_with_its_file(wrong: int, tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, wrong]], dtype=np.uint8)).save(tmp_path / "cat.png")
    with pytest.raises(ValueError, match=rf"cat\.png.*\b{wrong}\b.*0 to 20 and 255 \(void\).*classes\.txt"):
        voc_label(tmp_path / "cat.png")


def test_id_above_255_of_a_16_bit_label_is_not_folded_into_a_class(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 256]], dtype=np.uint16)).save(tmp_path / "label.png")
    with pytest.raises(ValueError, match="label id 256"):
        voc_label(tmp_path / "label.png")


@pytest.mark.parametrize("ids", [IDS, IDS[1:]], ids=["with void", "without void"])
def test_palette_png_converted_to_gray_gets_the_hint(ids: np.ndarray, tmp_path: Path) -> None:
    palette_picture(ids).convert("L").save(tmp_path / "label.png")
    with pytest.raises(ValueError, match=r"gray shades.*keep the original.*convert\('L'\)"):
        voc_label(tmp_path / "label.png")


def test_other_wrong_ids_get_no_hint_about_gray(tmp_path: Path) -> None:
    Image.fromarray(np.array([[22]], dtype=np.uint8)).save(tmp_path / "label.png")
    with pytest.raises(ValueError, match="22") as caught:
        voc_label(tmp_path / "label.png")
    assert "gray" not in str(caught.value)


def test_rgb_label_with_unknown_colors_names_them(tmp_path: Path) -> None:
    colors = colorize(IDS)
    colors[0, 0] = (1, 2, 3)
    Image.fromarray(colors).save(tmp_path / "label.png")
    with pytest.raises(ValueError, match=r"label\.png.*1 colors.*\(1, 2, 3\).*classes\.txt.*PNG"):
        voc_label(tmp_path / "label.png")


def test_color_of_a_class_that_the_set_does_not_have_is_refused(tmp_path: Path) -> None:
    Image.fromarray(colorize(np.array([[0, 1, 2]]))).save(tmp_path / "label.png")
    with pytest.raises(ValueError, match=r"\(0, 128, 0\)"):
        read_label(tmp_path / "label.png", VOC_CLASSES[:2], VOC_PALETTE)


@pytest.mark.parametrize("mode", ["LA", "CMYK", "F"])
def test_label_in_a_mode_without_ids_is_refused(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("label.png" if mode == "LA" else "label.tif")
    Image.fromarray(IDS).convert(mode).save(path)
    with pytest.raises(ValueError, match=rf"mode {mode}.*palette PNG"):
        voc_label(path)


def test_jpeg_label_is_refused_since_jpeg_changes_ids(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "label.jpg")
    with pytest.raises(ValueError, match=r"label\.jpg is a JPEG.*PNG"):
        voc_label(tmp_path / "label.jpg")


def test_black_and_white_mask_of_a_two_class_set_warns_that_white_is_void(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save(tmp_path / "mask.png")
    with pytest.warns(UserWarning, match=r"mask\.png holds only 0 and 255.*class 1 \(cell\).*0 and 1"):
        read_label(tmp_path / "mask.png", ("ground", "cell"), VOC_PALETTE)


# ---- pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("L", "png"), ("1", "png"), ("LA", "png"), ("P", "png"), ("RGBA", "webp"), ("CMYK", "jpg"), ("RGB", "bmp")],
)
def test_pictures_of_every_mode_become_rgb(mode: str, ending: str, tmp_path: Path) -> None:
    Image.fromarray(noise()).convert(mode).save(tmp_path / f"a.{ending}")
    image = read_image(tmp_path / f"a.{ending}")
    assert image.shape == (40, 50, 3)
    assert image.dtype == np.uint8
    assert image.std() > 20


def test_16_bit_picture_keeps_its_shades(tmp_path: Path) -> None:
    shades = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(shades.astype(np.uint16) * 257).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.stack([shades] * 3, axis=2))


def test_floating_point_picture_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif.*mode F.*RGB PNG"):
        read_image(tmp_path / "a.tif")


def test_exif_orientation_turns_the_picture_only_where_asked(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    Image.fromarray(noise()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), noise())
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", upright=True), np.rot90(noise(), -1))


def damaged(kind: str, folder: Path) -> Path:
    path = folder / "bad.png"
    Image.fromarray(noise()).save(path)
    whole = path.read_bytes()
    if kind == "jpeg cut off":
        path = folder / "bad.jpg"
        Image.fromarray(noise()).save(path)
        whole = path.read_bytes()
    contents = {
        "cut off": whole[: len(whole) // 2],
        "jpeg cut off": whole[: len(whole) // 2],
        "corrupt": whole[:60] + bytes(100) + whole[160:],
        "text": b"this is no picture",
        "zero bytes": b"",
        "no pixels": gray_png(0, 0),
    }
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize("kind", ["cut off", "jpeg cut off", "corrupt", "text", "zero bytes", "no pixels"])
@pytest.mark.parametrize("read", [read_image, voc_label])
def test_damaged_file_is_named_and_the_fix_is_said(read, kind: str, tmp_path: Path) -> None:
    path = damaged(kind, tmp_path)
    with pytest.raises(ValueError, match=rf"{path.name} cannot be read as a picture.*copy it anew"):
        read(path)


@pytest.mark.parametrize("seed", range(8))
def test_random_damage_never_gives_a_foreign_error(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    for ending in ("png", "jpg", "webp", "tif", "bmp"):
        path = tmp_path / f"a.{ending}"
        Image.fromarray(noise(20, 20)).save(path)
        content = bytearray(path.read_bytes())
        for position in random.integers(0, min(len(content), 300), 4):
            content[position] = random.integers(256)
        path.write_bytes(content)
        for read in (lambda file: read_image(file, upright=True), voc_label):
            try:
                read(path)
            except ValueError as error:
                said = str(error)
            else:
                said = str(path)  # it can still be read
            assert str(path) in said


def test_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(gray_png(20000, 20000))
    with pytest.raises(ValueError, match=r"bomb\.png is too large.*400000000 pixels.*MAX_IMAGE_PIXELS"):
        read_image(tmp_path / "bomb.png")


def test_folder_and_missing_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"gone\.png does not exist"):
        read_image(tmp_path / "gone.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file_is_not_called_corrupt(picture: Path) -> None:
    picture.chmod(0)
    with pytest.raises(PermissionError, match=r"picture\.png may not be read by you: change its permissions"):
        read_image(picture)


def test_refused_permission_is_not_called_corrupt(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(PermissionError, match=r"picture\.png may not be read by you: change its permissions"):
        read_image(picture)


def test_hidden_files_folders_and_other_endings_are_no_pictures(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "._a.jpg", "notes.txt", ".DS_Store"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in picture_files(tmp_path)] == ["a.jpg", "b.PNG"]


# ---- classes.txt -------------------------------------------------------------------------------------------


def classes_file(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    (folder / "classes.txt").write_text(text, encoding=encoding)
    return folder / "classes.txt"


@pytest.mark.parametrize(
    "text",
    [
        "sky\ndining table\n",
        "\n  sky \n\ndining   table",
        "sky\ndining table\nVoid\n",
        "# mine\nsky\r\ndining table\r\n",
    ],
)
def test_classes_txt_of_names(text: str, tmp_path: Path) -> None:
    assert read_classes(classes_file(tmp_path, text)) == (("sky", "dining table"), None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_classes_txt_of_ids_and_colors_in_any_order(encoding: str, tmp_path: Path) -> None:
    path = classes_file(tmp_path, "255 void 0 0 0\n1 dining table 4 5 6\n0 café 1 2 3\n", encoding)
    names, palette = read_classes(path)
    assert names == ("café", "dining table")
    assert palette is not None
    assert palette[[0, 1, 255]].tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names 0 classes.*1 to 255"),
        ("void\n", "names 0 classes"),
        ("a\nvoid\nb\n", "void.*last line"),
        ("a\nb\na\n", "a twice"),
        ("".join(f"c{i}\n" for i in range(256)), "names 256 classes.*1 to 255"),
        ("0 a 1 2 3\n1 b 1 2\n", "line '1 b 1 2'.*id name red green blue"),
        ("0 a 1 2 3\nb\n", "line 'b'"),
        ("0 a\n1 b\n", "line '0 a'"),
        ("0 a 1 2 256\n", "line '0 a 1 2 256'.*0 to 255"),
        ("0 a 1 2 -1\n", "line '0 a 1 2 -1'"),
        ("-1 a 1 2 3\n", "line '-1 a 1 2 3'"),
        ("0 a 1 2 3\n2 b 4 5 6\n", r"ids \[0, 2\].*without a gap"),
        ("1 a 1 2 3\n", r"ids \[1\]"),
        ("255 void 1 2 3\n", r"ids \[\]"),
        ("0 a 1 2 3\n0 b 4 5 6\n", "the id 0 again in the line '0 b 4 5 6'"),
        ("0 a 1 2 3\n1 b 1 2 3\n", r"the color \(1, 2, 3\) of id 0 again"),
        ("0 a 1 2 3\n1 void 4 5 6\n", "void is no class"),
    ],
)
def test_classes_txt_that_could_be_misread_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"classes\.txt.*{message}"):
        read_classes(classes_file(tmp_path, text))


def test_classes_txt_in_another_encoding_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"classes\.txt is no UTF-8 text.*save it"):
        read_classes(classes_file(tmp_path, "café\n", "latin-1"))


# ---- writing -----------------------------------------------------------------------------------------------


def test_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        write_atomically(tmp_path / "a" / "b", content)
    assert (tmp_path / "a" / "b").read_bytes() == b"new"
    assert len(list((tmp_path / "a").iterdir())) == 1


@pytest.mark.parametrize("before", [b"old", None])
def test_full_disk_leaves_the_old_file_whole(
    before: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    if before is not None:
        path.write_bytes(before)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    fate = "nothing was saved before" if before is None else "the file saved before is whole"
    with pytest.raises(OSError, match=rf"written \(No space left.*12 bytes.*{fate}.*free some space") as caught:
        write_atomically(path, b"new contents")
    assert caught.value.errno == errno.ENOSPC
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if before is None else [before])


def test_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", b"new")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OSError, match=r"a file stands where a folder is needed.*another folder"):
        write_atomically(tmp_path / "out" / "a.png", b"")


def test_real_write_failure_leaves_the_old_file_whole(tmp_path: Path) -> None:
    """The kernel refuses files above 1000 bytes, as it refuses to fill a full disk."""
    write_atomically(tmp_path / "a", b"old")
    script = f"""
import resource, signal
from pathlib import Path
from deeplab_lesson.data.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))
write_atomically(Path({str(tmp_path / "a")!r}), bytes(2000))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert "could not be written (File too large, 2,000 bytes): the file saved before is whole" in done.stderr
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]
