"""Everything a training run is told, in one dataclass; the command line reads its options from it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from deeplab_lesson.data.datasets import ImageMaskFolder, SegmentationDataset, VOCFolder
from deeplab_lesson.data.public import VOC2012, CamVid
from deeplab_lesson.data.scenes import Scenes
from deeplab_lesson.models.base import SMALLEST_IMAGE

DataName = Literal["scenes", "voc", "folder", "camvid", "voc2012"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run."""

    data: DataName = "scenes"
    """What to train on: procedural scenes, a VOC layout, image and mask folders, CamVid, PASCAL VOC 2012."""
    preset: Literal["cpu", "gpu"] | None = None
    """Settings recommended for this data on a CPU or a GPU; the other options change them."""
    root: Path | None = None
    """The data's folder (not for scenes)."""
    scenes_size: tuple[int, int] = (128, 128)
    """Height and width of procedural scenes."""
    train_split: str = "train"
    val_split: str = "val"
    download: bool = False
    """Fetch the data first (VOC 2012 only)."""
    limit: int | None = None
    """Train on only the first so many pictures."""

    model: str = "deeplabv3plus_mini"
    """A name from `deeplab-lesson models`."""
    output_stride: int | None = None
    """Image size / feature map size of the trunk; the model's own where not given."""
    pretrained_backbone: bool = False
    """Start the trunk from torchvision's ImageNet weights (downloaded once)."""

    out: Path = Path("runs/latest")
    """The run's folder: checkpoints, metrics.jsonl, TensorBoard files."""
    resume: bool = False
    """Go on where the run in `out` stopped."""

    steps: int = 1000
    """Updates of the weights."""
    batch_size: int = 16
    crop: tuple[int, int] = (128, 128)
    """Height and width of the training crops."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the random zoom."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    color_jitter: float = 0.0
    """Strength of random brightness, contrast and saturation (0 in the papers)."""

    learning_rate: float = 0.05
    """At the start of the poly schedule."""
    power: float = 0.9
    """Of the poly schedule."""
    warmup_steps: int = 0
    head_multiplier: float = 1.0
    """Learning rate of the new layers over the trunk's (10 in v1 and v2, with ImageNet weights)."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    """On convolution weights, not on BatchNorm or biases."""
    clip_norm: float = 10.0
    """Largest norm of the gradient; a larger one is scaled down to it."""

    device: str = "auto"
    """cuda, mps or cpu; auto takes the first that is there."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on GPUs that have it natively (compute capability 8.0), float16 on older ones, else float32."""
    workers: int = 0
    """Processes that prepare pictures."""
    cache: bool = False
    """Keep decoded pictures in memory (each worker keeps its own)."""
    seed: int = 0
    deterministic: bool = False
    """On a GPU: only operations that give the same bits each time (slower)."""

    evaluate_every: int = 500
    """Steps between evaluations on the validation split (and one at the end)."""
    save_every: int = 100
    """Steps between checkpoints."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = True
    """Write TensorBoard files where TensorBoard is installed."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "evaluate_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: allowed are whole numbers from 1")
        for name in ("learning_rate", "clip_norm", "head_multiplier"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: it must be above 0")
        if min(self.crop) < SMALLEST_IMAGE:
            raise ValueError(f"crop={self.crop}: height and width must be at least {SMALLEST_IMAGE}; enlarge the crop")
        if self.workers < 0:
            raise ValueError(f"workers={self.workers}: allowed are 0 (no further process) and more")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit={self.limit}: allowed are whole numbers from 1, or none for all pictures")

    def open(self, split: str) -> SegmentationDataset:
        """Open a split of the data that these settings name."""
        return open_dataset(self.data, split, self.root, scenes_size=self.scenes_size, download=self.download)


def open_dataset(
    data: str,
    split: str,
    root: str | Path | None = None,
    *,
    scenes_size: tuple[int, int] = (128, 128),
    download: bool = False,
) -> SegmentationDataset:
    """Open a data set by the name that the command line uses.

    Args:
        scenes_size: of procedural scenes; pictures in folders have their own.

    Raises:
        ValueError: unknown name, or no root where one is needed.
    """
    if data == "scenes":
        return Scenes(split, scenes_size)
    if root is None:
        raise ValueError(f"data={data!r} needs a folder: give root=... (on the command line --root FOLDER)")
    if data == "voc2012":
        return VOC2012(root, split, download=download)
    folders: dict[str, type[VOCFolder] | type[ImageMaskFolder]] = {
        "voc": VOCFolder,
        "folder": ImageMaskFolder,
        "camvid": CamVid,
    }
    if data not in folders:
        raise ValueError(f"there is no data {data!r}: allowed are scenes, voc2012, {', '.join(sorted(folders))}")
    return folders[data](root, split)


PRESETS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("scenes", "cpu"): dict(
        steps=900, batch_size=16, learning_rate=0.1, scale=(0.75, 1.5), limit=2048, cache=True,
        evaluate_every=450, warmup_steps=30,
    ),
    ("scenes", "gpu"): dict(  # fits a 15 GB T4; 256 pixels, because ASPP's rates want a map of 16x16 and more
        model="deeplabv3plus_resnet50", scenes_size=(256, 256), crop=(256, 256), steps=8000, batch_size=16,
        learning_rate=0.05, scale=(0.75, 1.5), workers=2, cache=True, evaluate_every=1000, warmup_steps=200,
    ),
    ("camvid", "cpu"): dict(
        steps=3600, batch_size=8, crop=(192, 192), scale=(0.6, 1.2), learning_rate=0.1, color_jitter=0.3,
        cache=True, evaluate_every=1200, warmup_steps=50,
    ),
    ("camvid", "gpu"): dict(
        model="deeplabv3plus_resnet50", output_stride=8, steps=20000, batch_size=16, crop=(352, 352),
        scale=(0.5, 2.0), learning_rate=0.05, color_jitter=0.3, workers=8, evaluate_every=1000, warmup_steps=500,
    ),
    ("voc", "cpu"): dict(steps=2000, batch_size=8, crop=(193, 193), scale=(0.5, 1.0), evaluate_every=500),
    ("voc", "gpu"): dict(
        model="deeplabv3plus_resnet50", pretrained_backbone=True, steps=30000, batch_size=16, crop=(513, 513),
        learning_rate=0.007, head_multiplier=10.0, workers=8, evaluate_every=2000,
    ),
}  # fmt: skip


def preset_config(data: str, preset: str, **changes: Any) -> TrainConfig:
    """Return the settings that this package recommends for a data set on a CPU or a GPU.

    Own folders ("folder") and VOC 2012 take those of "voc".

    Raises:
        ValueError: unknown preset.
    """
    key = (data if data in ("scenes", "camvid") else "voc", preset)
    if key not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}: allowed are cpu and gpu")
    return replace(TrainConfig(data=data, preset=preset, **PRESETS[key]), **changes)  # type: ignore[arg-type]
