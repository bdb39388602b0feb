"""DeepLab, step by step: the models, losses, metrics and training of the course."""

from importlib.metadata import PackageNotFoundError, version

from deeplab_lesson.layers.atrous import plan_dilation
from deeplab_lesson.models.registry import create_model, list_models

try:
    __version__ = version("deeplab-lesson")
except PackageNotFoundError:  # run from a folder without having been installed
    __version__ = "0+unknown"

__all__ = ["__version__", "create_model", "list_models", "plan_dilation"]
