"""Pictures with labels: folders, public sets, and procedural scenes."""

from deeplab_lesson.data.bundled import bundled
from deeplab_lesson.data.datasets import ImageMaskFolder, SegmentationDataset, VOCFolder
from deeplab_lesson.data.export import export_voc
from deeplab_lesson.data.palette import VOC_CLASSES, VOC_PALETTE, VOID, colorize
from deeplab_lesson.data.public import VOC2012, CamVid
from deeplab_lesson.data.scenes import Scenes
from deeplab_lesson.data.transforms import EvalTransform, TrainTransform, denormalize, normalize

__all__ = [
    "VOC2012",
    "VOC_CLASSES",
    "VOC_PALETTE",
    "VOID",
    "CamVid",
    "EvalTransform",
    "ImageMaskFolder",
    "Scenes",
    "SegmentationDataset",
    "TrainTransform",
    "VOCFolder",
    "bundled",
    "colorize",
    "denormalize",
    "export_voc",
    "normalize",
]
