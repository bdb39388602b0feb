"""deeplab-lesson scenes."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from deeplab_lesson.data.datasets import SegmentationDataset


def scenes_command(
    action: Positional[Literal["export"]],
    folder: Positional[Path],
    split: tuple[Literal["train", "val", "test"], ...] = ("train", "val"),
    count: tuple[int, ...] = (16, 8),
    size: tuple[int, int] = (128, 128),
    seed: int = 0,
) -> None:
    """Draw procedural scenes and write them in VOC's layout.

    Args:
        action: export.
        folder: where to write; must not hold pictures yet.
        split: the splits to write.
        count: pictures in each split.
        size: height and width in pixels.
        seed: another seed gives other scenes.
    """
    from deeplab_lesson.data.export import export_voc
    from deeplab_lesson.data.scenes import Scenes

    if len(split) != len(count) or len(set(split)) != len(split) or not split:
        raise ValueError(
            f"--split {' '.join(split)} has {len(split)} names and --count {len(count)} numbers: give each split once, "
            "and one count for each"
        )
    sets: dict[str, SegmentationDataset] = {
        name: Scenes(name, size, length=n, seed=seed) for name, n in zip(split, count, strict=True)
    }
    print(f"{export_voc(folder, sets)} pictures written in {folder}")
