"""From a picture to its labels and objects, and to a picture of them that people can read."""

from deeplab_lesson.inference.colors import class_colors, outline, overlay, with_legend
from deeplab_lesson.inference.crf_search import tune_crf
from deeplab_lesson.inference.files import find_pictures, predict_files, predict_files_with, predict_panoptic_files
from deeplab_lesson.inference.objects import predict_panoptic
from deeplab_lesson.inference.one_picture import predict, predict_multiscale, predict_probabilities
from deeplab_lesson.inference.onnx_file import export_onnx
from deeplab_lesson.inference.sliding_window import SlidingWindow, predict_sliding_window

__all__ = [
    "SlidingWindow",
    "class_colors",
    "export_onnx",
    "find_pictures",
    "outline",
    "overlay",
    "predict",
    "predict_files",
    "predict_files_with",
    "predict_multiscale",
    "predict_panoptic",
    "predict_panoptic_files",
    "predict_probabilities",
    "predict_sliding_window",
    "tune_crf",
    "with_legend",
]
