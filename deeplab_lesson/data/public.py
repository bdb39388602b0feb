"""Public data sets by name: PASCAL VOC 2012 and CamVid, on top of the VOC layout."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deeplab_lesson.data.datasets import Transform, VOCFolder
from deeplab_lesson.data.palette import VOC_CLASSES


class VOC2012(VOCFolder):
    """PASCAL VOC 2012 segmentation: 1,464 train and 1,449 val pictures, 20 classes and background.

    Args:
        root: where `VOCdevkit/VOC2012` is or will be.
        split: "train", "val" or "trainval" (the labels of "test" are not public).
        download: fetch the 2 GB archive and check its MD5 sum, by torchvision's VOCSegmentation.

    Source: Everingham et al., "The PASCAL Visual Object Classes Challenge 2012".
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        download: bool = False,
        transform: Transform | None = None,
    ) -> None:
        if split not in ("train", "val", "trainval"):
            raise ValueError(f"VOC 2012 has no public split {split!r}: allowed are train, val, trainval")
        folder = Path(root) / "VOCdevkit" / "VOC2012"
        if download:
            from torchvision.datasets import VOCSegmentation

            try:
                VOCSegmentation(str(root), year="2012", image_set=split, download=True)
            except (RuntimeError, OSError) as error:  # a wrong MD5 sum; no network, no space
                raise OSError(
                    f"PASCAL VOC 2012 could not be fetched into {root} ({error}): check the network and 4 GB of free "
                    "space, delete a damaged archive there and try again, or fetch it by hand and give its root"
                ) from error
        elif not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is not a folder: give the root that holds VOCdevkit/VOC2012, or download=True "
                "(on the command line --download) to fetch it (2 GB)"
            )
        super().__init__(folder, split, classes=VOC_CLASSES, transform=transform)


class CamVid(VOCFolder):
    """CamVid road scenes with SegNet's 11 classes, in VOC's layout (ids 0 to 10, void 255).

    Args:
        root: the folder with JPEGImages/, SegmentationClass/ and ImageSets/.
        split: "train" (367 pictures), "val" (101), "test" (233) or "trainval".

    Source: Brostow, Fauqueur, Cipolla 2009; split and classes of Badrinarayanan et al. 2015 (SegNet).
    """

    NAMES: Sequence[str] = (
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    )  # fmt: skip
    COLORS: Sequence[tuple[int, int, int]] = (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    )  # fmt: skip

    def __init__(self, root: str | Path, split: str = "train", *, transform: Transform | None = None) -> None:
        super().__init__(root, split, classes=self.NAMES, transform=transform)
        self.palette = np.zeros((256, 3), dtype=np.uint8)
        self.palette[: len(self.COLORS)] = self.COLORS
