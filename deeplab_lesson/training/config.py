"""Everything a training run is told, in one dataclass; the command line reads its options from it."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from deeplab_lesson.data.datasets import ImageMaskFolder, SegmentationDataset, VOCFolder
from deeplab_lesson.data.public import VOC2012, CamVid
from deeplab_lesson.data.scenes import Scenes
from deeplab_lesson.data.transforms import TrainTransform
from deeplab_lesson.layers.checks import check_whole, is_size, is_whole
from deeplab_lesson.losses import combine
from deeplab_lesson.models.base import SMALLEST_IMAGE
from deeplab_lesson.models.panoptic_instances import CENTER_SIGMA
from deeplab_lesson.training.presets import PRESETS
from deeplab_lesson.training.schedules import SCHEDULES
from deeplab_lesson.training.step_loss import parse_losses

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
    start_from: Path | None = None
    """Start from this checkpoint of the same model; its output stride may be another (v3's second stage)."""
    freeze_batch_norm: bool = False
    """Keep BatchNorm's statistics, scale and shift as they are (v3's second stage)."""
    batch_norm_momentum: float | None = None
    """Share of the new in BatchNorm's running statistics; the layers' own where not given (3e-4 in the papers)."""
    sync_batch_norm: bool = False
    """On several GPUs: let BatchNorm normalize over the pictures of all of them."""

    out: Path = Path("runs/latest")
    """The run's folder: checkpoints, metrics.jsonl, TensorBoard files."""
    resume: bool = False
    """Go on where the run in `out` stopped."""

    steps: int = 1000
    """Updates of the weights."""
    batch_size: int = 16
    """Pictures of one step; on several processes (docs/distributed.md) of all of them together."""
    accumulate: int = 1
    """Take each process's part of a batch in so many pieces, one after another, to save memory."""
    crop: tuple[int, int] = (128, 128)
    """Height and width of the training crops."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the random zoom."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    color_jitter: float = 0.0
    """Strength of random brightness, contrast and saturation (0 in the papers)."""

    losses: tuple[str, ...] = ("cross_entropy",)
    """What is minimized: the sum of these losses, each with its factor where that is not 1 (cross_entropy dice=0.5);
    there are cross_entropy, ohem_cross_entropy, focal, dice, lovasz_softmax and edge."""
    class_weights: Literal["none", "median_frequency"] = "none"
    """median_frequency: a rare class weighs more, by the pixels that the training pictures have of each."""
    label_stride: int = 1
    """Score every so-manieth pixel across and down: 8 as v1 and v2 do, 1 (all pixels) as v3 does."""
    auxiliary_weight: float | None = None
    """Of the loss of each further output; where not given 0.4 for an auxiliary head, 1 for the scores of a scale."""
    center_sigma: float = CENTER_SIGMA
    """Of the Gaussians on the centers of objects, in pixels (panoptic models; small pictures want less)."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd with momentum, as DeepLab is trained, or adamw, which wants a far smaller learning rate."""
    learning_rate: float = 0.05
    """At the start of the schedule."""
    schedule: Literal["poly", "step", "cosine"] = "poly"
    """How the learning rate falls: poly to 0 (v2 to v3+), step by 10 at a time (v1), cosine to 0."""
    power: float = 0.9
    """Of the poly schedule."""
    step_every: int = 2000
    """Steps (not epochs) between two falls of the step schedule."""
    warmup_steps: int = 0
    """Steps in which the learning rate first rises, whatever the schedule."""
    head_multiplier: float = 1.0
    """Learning rate of the new layers over the trunk's (10 in v1 and v2, with ImageNet weights)."""
    bias_multiplier: float = 1.0
    """Learning rate of biases over that of the weights beside them (2 in v1 and v2, so 20 for the head's)."""
    momentum: float = 0.9
    """Of sgd; with adamw its first beta."""
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
    """Keep decoded pictures in memory, once for all workers."""
    seed: int = 0
    deterministic: bool = False
    """On a GPU: only operations that give the same bits each time (slower)."""
    compile: bool = False
    """Compile the model with its loss (torch.compile); where that is not possible, it says so and goes on without."""
    channels_last: bool = True
    """Keep the channels of a pixel side by side in memory, as the convolutions of GPUs and CPUs like them."""
    uint8_upload: bool = True
    """Send pictures and labels as bytes and normalize there: a quarter of the data, the same numbers."""
    fused_optimizer: bool = True
    """On a GPU: update all weights in one operation."""
    tf32: bool = True
    """On a GPU: multiply what is left in float32 with 10 bits behind the point (not with deterministic)."""
    autotune: bool = True
    """On a GPU: let cuDNN look for the fastest algorithms in the first step (not with deterministic)."""

    evaluate_every: int = 500
    """Steps between evaluations on the validation split (and one at the end)."""
    save_every: int = 100
    """Steps between checkpoints."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = True
    """Write TensorBoard files where TensorBoard is installed."""

    def __post_init__(self) -> None:
        counts = "steps batch_size accumulate evaluate_every save_every log_every step_every label_stride"
        for name in counts.split():
            check_whole(name, getattr(self, name))
        check_whole("warmup_steps", self.warmup_steps, least=0)
        for name in ("learning_rate", "clip_norm", "head_multiplier", "bias_multiplier", "center_sigma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: it must be above 0 and finite")
        for name in ("weight_decay", "power"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: allowed are finite numbers from 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum}: allowed are numbers from 0 up to, not including, 1")
        if not is_size(self.crop, SMALLEST_IMAGE):
            raise ValueError(f"crop={self.crop}: height and width must be at least {SMALLEST_IMAGE}; enlarge the crop")
        TrainTransform(self.crop, self.scale, self.flip, self.color_jitter)  # refuses what makes no view
        if not is_whole(self.workers) or self.workers < 0:
            raise ValueError(f"workers={self.workers}: allowed are 0 (no further process) and more")
        if self.limit is not None and (not is_whole(self.limit) or self.limit < 1):
            raise ValueError(f"limit={self.limit}: allowed are whole numbers from 1, or none for all pictures")
        if self.auxiliary_weight is not None and not self.auxiliary_weight >= 0:
            raise ValueError(f"auxiliary_weight={self.auxiliary_weight}: allowed are 0 (no further loss) and more")
        if self.label_stride > min(self.crop):
            raise ValueError(
                f"label_stride={self.label_stride} with crop={self.crop}: no pixel would be left; take a smaller stride"
            )
        allowed = {
            "schedule": tuple(SCHEDULES),
            "optimizer": ("sgd", "adamw"),
            "class_weights": ("none", "median_frequency"),
        }
        for name, names in allowed.items():
            if getattr(self, name) not in names:
                raise ValueError(f"there is no {name} {getattr(self, name)!r}: allowed are {', '.join(names)}")
        combine(parse_losses(self.losses))  # refuses unknown names here, not after the data was read

    def open(self, split: str) -> SegmentationDataset:
        """Open a split of the data that these settings name."""
        return open_dataset(
            self.data,
            split,
            self.root,
            scenes_size=self.scenes_size,
            download=self.download,
            instances=self.model.startswith("panoptic"),
        )


def open_dataset(
    data: str,
    split: str,
    root: str | Path | None = None,
    *,
    scenes_size: tuple[int, int] = (128, 128),
    download: bool = False,
    instances: bool = False,
) -> SegmentationDataset:
    """Open a data set by the name that the command line uses.

    Args:
        scenes_size: of procedural scenes; pictures in folders have their own.
        instances: with the maps of instances, which only procedural scenes have.

    Raises:
        ValueError: unknown name, or no root where one is needed.
    """
    if data == "scenes":
        return Scenes(split, scenes_size, instances=instances)
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
