"""Training, evaluation and checkpoints."""

from deeplab_lesson.training.checkpoint import load_checkpoint, load_weights, read_metadata, save_checkpoint
from deeplab_lesson.training.config import TrainConfig, open_dataset, preset_config
from deeplab_lesson.training.evaluation import Evaluation, evaluate
from deeplab_lesson.training.optim import parameter_groups, poly_schedule
from deeplab_lesson.training.trainer import Trainer, TrainResult, train

__all__ = [
    "Evaluation",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "evaluate",
    "load_checkpoint",
    "load_weights",
    "open_dataset",
    "parameter_groups",
    "poly_schedule",
    "preset_config",
    "read_metadata",
    "save_checkpoint",
    "train",
]
