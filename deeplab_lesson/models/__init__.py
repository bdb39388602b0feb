"""Segmentation systems, one file a paper."""

from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.models.deeplabv3 import DeepLabV3
from deeplab_lesson.models.deeplabv3plus import DeepLabV3Plus
from deeplab_lesson.models.registry import create_model, list_models

__all__ = ["DeepLabV3", "DeepLabV3Plus", "SegmentationModel", "create_model", "list_models"]
