"""Writing a data set as files, in the layout of PASCAL VOC."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from deeplab_lesson.data.datasets import SegmentationDataset, refuse_paths
from deeplab_lesson.data.files import write_atomically, write_label, write_picture
from deeplab_lesson.data.palette import VOID


def export_voc(folder: str | Path, sets: Mapping[str, SegmentationDataset]) -> int:
    """Write sets as one folder that `VOCFolder` reads; return the number of pictures.

    Pictures go to JPEGImages/ as PNG (nothing is lost, in spite of the folder's name), labels to
    SegmentationClass/ as palette PNG, lists to ImageSets/Segmentation/SPLIT.txt, names and colors to classes.txt.

    Args:
        sets: data sets of the same classes by split name.

    Raises:
        ValueError: the folder holds a data set already, the sets have different classes or share names, names that
            lead out of the folder, or no set.
    """
    root = Path(folder)
    for name in ("JPEGImages", "SegmentationClass", "ImageSets", "classes.txt"):
        if (root / name).is_file() or any((root / name).glob("*")):
            raise ValueError(f"{root / name} is there already: give a new folder, or empty this one")
    if not sets:
        raise ValueError("no set is given: allowed are data sets by split name, {'train': Scenes('train')}")
    first = next(iter(sets.values()))
    seen: dict[str, str] = {}
    for split, dataset in sets.items():
        refuse_paths([split, *map(dataset.name, range(len(dataset)))], f"the split {split!r}")
        if tuple(dataset.classes) != tuple(first.classes):
            raise ValueError(
                f"the split {split!r} has the classes {', '.join(dataset.classes)} and another split "
                f"{', '.join(first.classes)}: one folder holds one list of classes; export them apart"
            )
        for name in map(dataset.name, range(len(dataset))):
            if name in seen:
                raise ValueError(
                    f"the splits {seen[name]!r} and {split!r} both have a picture {name}, and one would overwrite "
                    "the other: rename one, or export them apart"
                )
            seen[name] = split
    for split, dataset in sets.items():
        for index in range(len(dataset)):
            image, label = dataset.read(index)[:2]
            name = dataset.name(index)
            write_picture(root / "JPEGImages" / f"{name}.png", Image.fromarray(image))
            write_label(root / "SegmentationClass" / f"{name}.png", label, dataset.palette)
        names = "".join(f"{dataset.name(index)}\n" for index in range(len(dataset)))
        write_atomically(root / "ImageSets" / "Segmentation" / f"{split}.txt", names.encode())
    lines = [
        f"{class_id} {name} {' '.join(str(value) for value in first.palette[class_id])}\n"
        for class_id, name in [*enumerate(first.classes), (VOID, "void")]
    ]
    write_atomically(root / "classes.txt", "".join(lines).encode())
    return sum(len(dataset) for dataset in sets.values())
