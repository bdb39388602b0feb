"""DeepLab, step by step: the models, losses, metrics and training of the course."""

from importlib.metadata import PackageNotFoundError, version

from deeplab_lesson.layers.dilation import plan_dilation
from deeplab_lesson.models.registry import create_model, list_models
from deeplab_lesson.receptive_field import gradient_receptive_field, receptive_field

try:
    __version__ = version("deeplab-lesson")
except PackageNotFoundError:  # run from a folder without having been installed
    __version__ = "0+unknown"

__all__ = [
    "__version__",
    "create_model",
    "gradient_receptive_field",
    "list_models",
    "plan_dilation",
    "receptive_field",
]
