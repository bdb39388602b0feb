"""Models whose answers are known, in place of trained ones."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeplab_lesson.data import Scenes, denormalize
from deeplab_lesson.models.base import SegmentationModel, check_images
from deeplab_lesson.models.panoptic import PanopticDeepLab
from deeplab_lesson.models.panoptic_instances import panoptic_targets


class Pixelwise(SegmentationModel):
    """A 1x1 convolution: what it says of a pixel depends on that pixel alone."""

    def __init__(self, num_classes: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.spec = {"name": "pixelwise", "num_classes": num_classes}
        self.classifier = nn.Conv2d(3, num_classes, kernel_size=1)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        check_images(images)
        return {"out": self.classifier(images)}


class ByWidth(SegmentationModel):
    """The same logits at every pixel, chosen by the width of the image."""

    def __init__(self, logits: dict[int, tuple[float, ...]]) -> None:
        super().__init__()
        self.logits = logits
        self.spec = {"name": "by_width", "num_classes": len(next(iter(logits.values())))}
        self.weight = nn.Parameter(torch.zeros(1))

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        values = torch.tensor(self.logits[images.shape[3]])[None, :, None, None]
        return {"out": values.expand(len(images), -1, *images.shape[2:])}


class Knowing:
    """Finds a scene's truth by its pixels."""

    def __init__(self, scenes: Scenes) -> None:
        self.truth = {}
        for index in range(len(scenes)):
            image, *maps = scenes.read(index)
            self.truth[image.tobytes()] = [torch.from_numpy(each.astype("int64")) for each in maps]

    def of(self, images: Tensor) -> list[Tensor]:
        """Labels and, where the scenes have them, instances, [N, H, W] each."""
        found = [self.truth[denormalize(image).tobytes()] for image in images]
        return [torch.stack(maps) for maps in zip(*found, strict=True)]


class BlurredTruth(SegmentationModel):
    """The true labels, blurred by a box: right far from edges, and unsure near them. Void is said to be class 0."""

    def __init__(self, scenes: Scenes, box: int = 9) -> None:
        super().__init__()
        self.knowing, self.box = Knowing(scenes), box
        self.spec = {"name": "blurred_truth", "num_classes": len(scenes.classes)}
        self.weight = nn.Parameter(torch.zeros(1))

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        labels = self.knowing.of(images)[0]
        one_hot = F.one_hot(torch.where(labels == 255, 0, labels), self.spec["num_classes"]).permute(0, 3, 1, 2)
        blurred = F.avg_pool2d(one_hot.float(), self.box, stride=1, padding=self.box // 2, count_include_pad=False)
        return {"out": (blurred + 1e-3).log()}


class TrueObjects(PanopticDeepLab):
    """Panoptic-DeepLab as if it had learned its scenes by heart."""

    def __init__(self, scenes: Scenes) -> None:
        nn.Module.__init__(self)
        self.knowing = Knowing(scenes)
        self.spec = {"name": "panoptic_deeplab_mini", "num_classes": len(scenes.classes)}
        self.weight = nn.Parameter(torch.zeros(1))

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        labels, instances = self.knowing.of(images)
        one_hot = F.one_hot(torch.where(labels == 255, 0, labels), self.spec["num_classes"]).permute(0, 3, 1, 2)
        targets = panoptic_targets(instances, sigma=2.0)
        return {"out": 9 * one_hot.float(), "center": targets["center"], "offset": targets["offset"]}
