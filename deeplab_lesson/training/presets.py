"""Settings that this package recommends for each kind of data, on a CPU and on a GPU."""

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("scenes", "cpu"): dict(
        steps=560, batch_size=16, learning_rate=0.1, scale=(0.75, 1.5), limit=2048, cache=True,
        evaluate_every=560, warmup_steps=30,
    ),
    ("scenes", "gpu"): dict(  # fits a 15 GB T4; 256 pixels, because ASPP's rates want a map of 16x16 and more
        model="deeplabv3plus_resnet50", scenes_size=(256, 256), crop=(256, 256), steps=8000, batch_size=16,
        learning_rate=0.05, scale=(0.75, 1.5), workers=2, cache=True, evaluate_every=1000, warmup_steps=200,
    ),
    ("camvid", "cpu"): dict(
        steps=9600, batch_size=8, crop=(192, 192), scale=(0.6, 1.2), learning_rate=0.1, color_jitter=0.3,
        cache=True, evaluate_every=2400, warmup_steps=50,
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
