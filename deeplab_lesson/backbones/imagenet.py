"""ImageNet weights: torchvision's classifiers, downloaded once, and what is said when there are none."""

from typing import Any
from urllib.error import URLError

import torch


def torchvision_classifier(name: str, title: str, *, pretrained: bool) -> Any:
    """Build torchvision's classifier, with its ImageNet weights (IMAGENET1K_V1) or freshly initialized.

    Args:
        name: torchvision's, such as "resnet50" or "vgg16".
        title: the papers' name, for the error text.

    Raises:
        ConnectionError: the weights are not in torch's cache and cannot be downloaded.
    """
    from torchvision.models import get_model  # late, so that `import deeplab_lesson` does not load torchvision

    try:
        return get_model(name, weights="IMAGENET1K_V1" if pretrained else None)
    except (URLError, OSError) as error:
        raise ConnectionError(
            f"the ImageNet weights of {title} could not be downloaded ({error}): connect to the internet "
            f"once, put the file {_file_name(name)} into {torch.hub.get_dir()}/checkpoints, or take "
            "pretrained_backbone=False"
        ) from error


def _file_name(name: str) -> str:
    from torchvision.models import get_model_weights

    url: str = get_model_weights(name)["IMAGENET1K_V1"].url
    return url.rsplit("/", 1)[-1]


def refuse_pretrained_mini(pretrained_backbone: bool, instead: str) -> None:
    """Refuse `pretrained_backbone=True` for a system on the mini trunk, and name a system that has weights."""
    if pretrained_backbone:
        raise ValueError(
            "pretrained_backbone=True: there are no ImageNet weights for the mini trunk; "
            f"allowed with the vgg16 and resnet models; take pretrained_backbone=False or {instead}"
        )
