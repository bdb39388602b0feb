"""Three ways to keep labeled pictures in folders, read through one interface."""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from deeplab_lesson.data.files import PICTURE_ENDINGS, picture_files, read_image, read_label
from deeplab_lesson.data.palette import VOC_CLASSES, VOC_PALETTE, read_classes, read_lines

Transform = Callable[..., Any]


class SegmentationDataset(Dataset[Any]):
    """Pictures with a class id at every pixel.

    `dataset[i]` is an image uint8 [H, W, 3] and a label uint8 [H, W] (NumPy; 255 is void), or what
    `transform(image, label)` makes of them: with this package's transforms a normalized float32 [3, h, w]
    and an int64 [h, w].

    Attributes:
        classes: the names, by class id. Void is not among them.
        palette: uint8 [256, 3], the color of each id.
    """

    classes: Sequence[str] = VOC_CLASSES
    palette: NDArray[np.uint8] = VOC_PALETTE
    transform: Transform | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Return what to call picture `index` in a message or an output file."""
        raise NotImplementedError

    def read(self, index: int) -> tuple[NDArray[Any], ...]:
        """Return image uint8 [H, W, 3] and label uint8 [H, W] of picture `index`, untransformed."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        parts = self.read(index)
        return self.transform(*parts) if self.transform else parts


class _FilePairs(SegmentationDataset):
    """What the two folder layouts share: a list of (image file, label file)."""

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        classes: Sequence[str] | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.root = Path(root)
        self.split = split
        refuse_paths([str(split)], "split=...")
        self.transform = transform
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} is not a folder: give the folder that holds {self.layout}")
        if isinstance(classes, str):
            raise TypeError(f"classes={classes!r} is one text: give a tuple of names, one for each class")
        if classes is not None:
            self.classes = tuple(classes)
        elif (self.root / "classes.txt").exists():
            self.classes, palette = read_classes(self.root / "classes.txt")
            self.palette = VOC_PALETTE if palette is None else palette
        self.pairs = self._find_pairs()

    layout: ClassVar[str]

    def _find_pairs(self) -> list[tuple[Path, Path]]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index][0].stem

    def read(self, index: int) -> tuple[NDArray[Any], ...]:
        image_file, label_file = self.pairs[index]
        image = read_image(image_file)
        label = read_label(label_file, self.classes, self.palette)
        if image.shape[:2] != label.shape:
            fix = "export the label again at the picture's size, with nearest-neighbor resizing"
            if image.shape[1::-1] == label.shape:
                fix = "one of them is turned, perhaps by a camera's EXIF note: save both files upright"
            raise ValueError(
                f"{image_file} is {image.shape[1]}x{image.shape[0]} but its label {label_file} is "
                f"{label.shape[1]}x{label.shape[0]} (width x height): both must have one size; {fix}"
            )
        return image, label


class VOCFolder(_FilePairs):
    """A folder laid out as PASCAL VOC: JPEGImages/, SegmentationClass/ (palette PNG), ImageSets/.

    Args:
        root: the folder.
        split: the name of a list in ImageSets/Segmentation/ (or ImageSets/), without .txt.
        classes: names by class id; else those in root/classes.txt; else VOC's 21.
        transform: called with (image, label).

    Raises:
        FileNotFoundError: missing folder, split list, picture or label, each named.
        ValueError: a split, or a name in its list, that leads out of the folder.
    """

    layout = "JPEGImages/, SegmentationClass/ and ImageSets/"

    def _find_pairs(self) -> list[tuple[Path, Path]]:
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets"):
            if not (self.root / folder).is_dir():
                raise FileNotFoundError(f"{self.root} has no folder {folder}: VOC's layout is {self.layout}")
        names = read_lines(self._split_file())
        refuse_paths(names, self._split_file())
        if not names:
            raise ValueError(f"{self._split_file()} lists no picture: write one name a line, without ending")
        pictures = _by_name(self.root / "JPEGImages")
        labels = _by_name(self.root / "SegmentationClass", (".png",))
        without_picture = [name for name in names if name not in pictures]
        without_label = [name for name in names if name not in labels]
        _refuse_lonely(without_picture, without_label, self._split_file())
        return [(pictures[name], labels[name]) for name in names]

    def _split_file(self) -> Path:
        folders = [self.root / "ImageSets" / "Segmentation", self.root / "ImageSets"]
        for folder in folders:
            if (folder / f"{self.split}.txt").is_file():
                return folder / f"{self.split}.txt"
        found = sorted({path.stem for folder in folders for path in folder.glob("*.txt")})
        raise FileNotFoundError(
            f"{self.root} has no list for the split {self.split!r} (looked for ImageSets/Segmentation/{self.split}.txt "
            f"and ImageSets/{self.split}.txt): there are {', '.join(found) or 'none'}"
        )


class ImageMaskFolder(_FilePairs):
    """Pictures and masks side by side: root/train/images, root/train/masks, root/val/images, ...

    A picture and its mask have the same name up to the ending. Masks are PNG files of class ids.

    Args:
        root: the folder, with classes.txt (names, one a line) unless `classes` is given.
        split: the folder inside root: "train", "val", ...
    """

    layout = "train/images, train/masks, val/images, val/masks and classes.txt"
    classes: Sequence[str] = ()

    def _find_pairs(self) -> list[tuple[Path, Path]]:
        folders = [self.root / self.split / "images", self.root / self.split / "masks"]
        for folder in folders:
            if not folder.is_dir():
                found = ", ".join(sorted(path.parent.name for path in self.root.glob("*/images"))) or "none"
                raise FileNotFoundError(
                    f"{folder} is not a folder: the layout is {self.layout} in {self.root} (splits found: {found})"
                )
        pictures, masks = _by_name(folders[0]), _by_name(folders[1])
        if not pictures and not masks:
            raise ValueError(f"{folders[0]} holds no picture: allowed endings are {', '.join(PICTURE_ENDINGS)}")
        _refuse_lonely(sorted(masks.keys() - pictures), sorted(pictures.keys() - masks), self.root / self.split)
        if not self.classes:
            raise FileNotFoundError(
                f"{self.root}/classes.txt does not exist: write the class names into it, one a line in the order "
                "of their ids (the first is id 0), or give classes=(...)"
            )
        return [(pictures[name], masks[name]) for name in sorted(pictures)]


def _by_name(folder: Path, endings: Sequence[str] = PICTURE_ENDINGS) -> dict[str, Path]:
    """Return the files of a folder by name without ending; refuse two of one name."""
    found: dict[str, Path] = {}
    for path in picture_files(folder, endings):
        if path.stem in found:
            raise ValueError(
                f"{folder} holds {found[path.stem].name} and {path.name}: names must differ without their endings, "
                "since they join pictures and labels; rename or remove one"
            )
        found[path.stem] = path
    return found


def refuse_paths(names: Sequence[str], where: Path | str) -> None:
    """Refuse names that lead to another folder: a list from elsewhere must not name files outside the set."""
    for name in names:
        if "\\" in name or "\0" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(
                f"{where} has the name {name!r}, which leads out of the set's folder: allowed are names without a "
                "path, such as 2007_000032"
            )


def _refuse_lonely(without_picture: list[str], without_label: list[str], where: Path) -> None:
    """Name the labels without a picture and the pictures without a label."""
    texts = []
    for kind, missing, names in (
        ("label", "picture", without_picture),
        ("picture", "label", without_label),
    ):
        if names:
            texts.append(f"{kind} without a {missing}: {', '.join(names[:5])}")
            texts[-1] += f" and {len(names) - 5} more" if len(names) > 5 else ""
    if texts:
        raise FileNotFoundError(
            f"{where}: {'; '.join(texts)}. Every picture needs a label file of the same name up to the ending, and "
            "the other way round: add the missing files or take the names out (lists hold names without endings)"
        )
