"""torchvision's DeepLab v3: how it is built, what its tensors are called here, and where its weights come from.

Users call `deeplab_lesson.interop`; this stands beside the models because `create_model(weights=...)` needs it.
"""

import sys
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import Tensor

from deeplab_lesson.models.base import SegmentationModel, weight_differences
from deeplab_lesson.models.deeplabv3 import DeepLabV3

NAMES = ("deeplabv3_resnet50", "deeplabv3_resnet101")
VERSION = "COCO_WITH_VOC_LABELS_V1"  # trained on the pictures of COCO that show VOC's 20 classes
NUM_CLASSES = 21
# Output stride 8 with the ASPP rates (12, 24, 36), no multi-grid, and a 3x3 convolution behind ASPP:
BUILT_AS_THEIRS: Mapping[str, Any] = {"output_stride": 8, "multi_grid": None, "head_conv": True}

# The first words of our parameters' names, and torchvision's; the first that fits counts.
_NAMES_THERE = {
    "head.branches.4.project.0.": "classifier.0.convs.4.1.",  # image pooling; 0 is their pooling itself
    "head.branches.4.project.1.": "classifier.0.convs.4.2.",
    "head.branches.": "classifier.0.convs.",
    "head.project.": "classifier.0.project.",
    "head_conv.0.": "classifier.1.",
    "head_conv.1.": "classifier.2.",
    "classifier.": "classifier.4.",
    "aux_head.0.0.": "aux_classifier.0.",
    "aux_head.0.1.": "aux_classifier.1.",
    "aux_head.2.": "aux_classifier.4.",
}


def name_there(name: str) -> str:
    """torchvision's name of one of our tensors; trunks are named alike."""
    for ours, theirs in _NAMES_THERE.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def copy_weights(model: DeepLabV3, state_dict: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Copy a state dict of torchvision's DeepLab v3 into the model, all of it or nothing.

    Counters of batches (`num_batches_tracked`), which old files lack, may be missing: nothing here reads them.

    Returns:
        The keys of the auxiliary head, where the model has none: they were skipped.

    Raises:
        ValueError: other keys or shapes; the first differences are named in torchvision's words.
    """
    ours = model.state_dict()
    wanted = {name_there(name): tensor for name, tensor in ours.items()}
    auxiliary = [key for key in state_dict if str(key).startswith("aux_classifier.")]
    skipped = tuple(auxiliary) if model.aux_head is None else ()
    given = {key: value for key, value in state_dict.items() if key not in skipped}
    counters = {name: value for name, value in wanted.items() if name.endswith(".num_batches_tracked")}
    given = {**{name: value for name, value in counters.items() if name not in given}, **given}
    lines = weight_differences(wanted, given)
    if lines:
        raise ValueError(
            "these weights do not fit, and none was loaded: the state dict has "
            f"{'; '.join(lines[:4])}{f'; ... ({len(lines)} differences)' if len(lines) > 4 else ''}. "
            f"Skipped: {', '.join(skipped) or 'nothing'}. Allowed is the state dict of torchvision's "
            f"{' or '.join(NAMES)} for a model of the same trunk and number of classes, with head_conv=True"
        )
    model.load_state_dict({name: given[name_there(name)] for name in ours})
    return skipped


def check_published(weights: str, name: str, num_classes: int) -> None:
    """Refuse weights that nobody has published: of another source, for another model or number of classes."""
    if weights != "torchvision":
        raise ValueError(f"weights={weights!r}: allowed are 'torchvision' and None")
    if name not in NAMES:
        raise ValueError(
            f"torchvision has no weights for {name}: allowed with {' and '.join(NAMES)}; take weights=None"
        )
    if num_classes != NUM_CLASSES:
        raise ValueError(
            f"torchvision's weights are for VOC's {NUM_CLASSES} classes, and num_classes={num_classes}: for other "
            "classes take pretrained_backbone=True and train"
        )


def fill_with_published(model: SegmentationModel, name: str) -> None:
    """Download torchvision's weights of this name into our model; their auxiliary head only where it has one."""
    model = cast(DeepLabV3, model)
    model.skipped_weights = copy_weights(model, download(name))


def download(name: str) -> dict[str, Tensor]:
    """Return torchvision's published weights for a model, from its cache or the internet, checksum included.

    Raises:
        ConnectionError: not in the cache, and no connection or a damaged transfer.
        ValueError: the file in the cache is damaged.
    """
    from torchvision.models import get_model_weights

    weights = get_model_weights(name)[VERSION]
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    by_hand = f"connect to the internet once, or download {weights.url} elsewhere and save it as {file}"
    cached = file.exists()
    try:
        state: dict[str, Tensor] = weights.get_state_dict(
            progress=sys.stderr.isatty(), check_hash=True, weights_only=True, map_location="cpu"
        )
    except (OSError, HTTPException) as error:
        raise ConnectionError(
            f"torchvision's weights of {name} could not be downloaded ({error}): {by_hand}"
        ) from error
    except (RuntimeError, UnpicklingError, EOFError) as error:
        if cached:
            raise ValueError(f"{file} is damaged ({type(error).__name__}): delete it, then {by_hand}") from error
        raise ConnectionError(f"torchvision's weights of {name} arrived damaged ({error}): {by_hand}") from error
    return state
