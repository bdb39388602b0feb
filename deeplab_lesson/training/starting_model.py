"""The model that a training begins with: new, or from a checkpoint; with BatchNorm as the settings want it."""

import json
from collections.abc import Sequence
from pathlib import Path

from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.models.registry import create_model
from deeplab_lesson.training.batch_norm import freeze_batch_norm, set_batch_norm_momentum
from deeplab_lesson.training.checkpoint import find_checkpoint, load_weights, read_metadata
from deeplab_lesson.training.config import TrainConfig


def starting_model(
    config: TrainConfig, classes: Sequence[str], given: SegmentationModel | None = None
) -> SegmentationModel:
    """Build the model that the settings name, or take the one that is given, and make it ready to train.

    Raises:
        FileNotFoundError: no checkpoint at `start_from`.
        ValueError: a checkpoint of another model or of other classes, or settings for BatchNorm without BatchNorm.
    """
    model = given or create_model(
        config.model,
        len(classes),
        output_stride=config.output_stride,
        pretrained_backbone=config.pretrained_backbone and config.start_from is None,
    )
    if config.start_from is not None and not config.resume:
        load_stage(model, config.start_from, classes)
    if config.batch_norm_momentum is not None:
        set_batch_norm_momentum(model, config.batch_norm_momentum)
    if config.freeze_batch_norm:
        freeze_batch_norm(model)
    return model


def load_stage(model: SegmentationModel, path: Path, classes: Sequence[str]) -> None:
    """Fill a model with the weights of an earlier stage: of the same model, at any output stride.

    The stride changes no weight: rates take the place of strides (`plan_dilation`). Any other option that differs is
    refused, even where the shapes would fit, since the network would not be the one that was trained.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: another model, other options, other classes.
    """
    metadata = read_metadata(path)
    theirs, ours = _comparable(metadata["model"]), _comparable(model.spec)
    if theirs != ours:
        raise ValueError(
            f"start_from: {find_checkpoint(path)} holds {json.dumps(theirs)} and this training's model is "
            f"{json.dumps(ours)}: allowed is the same model with the same classes and options, at any output stride"
        )
    if "classes" in metadata and list(metadata["classes"]) != list(classes):
        raise ValueError(
            f"start_from: {find_checkpoint(path)} was trained on the classes {', '.join(metadata['classes'])}, and the "
            f"data has {', '.join(classes)}: allowed are the same classes in the same order; start without start_from"
        )
    load_weights(model, path)


def _comparable(spec: dict[str, object]) -> dict[str, object]:
    """A model's spec as JSON gives it back, without the output stride."""
    plain: dict[str, object] = json.loads(json.dumps(spec))
    return {key: value for key, value in plain.items() if key != "output_stride"}
