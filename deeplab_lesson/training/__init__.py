"""Training, evaluation and checkpoints."""

from deeplab_lesson.training.batch_norm import freeze_batch_norm, momentum_from_decay, set_batch_norm_momentum
from deeplab_lesson.training.checkpoint import load_checkpoint, load_weights, read_metadata, save_checkpoint
from deeplab_lesson.training.config import TrainConfig, open_dataset, preset_config
from deeplab_lesson.training.evaluation import Evaluation, evaluate
from deeplab_lesson.training.optim import build_optimizer, build_schedule, group_table, parameter_groups
from deeplab_lesson.training.pseudo_labels import PseudoLabels, UnlabeledPictures, class_thresholds
from deeplab_lesson.training.schedules import SCHEDULES, cosine_schedule, poly_schedule, step_schedule
from deeplab_lesson.training.self_training import self_train
from deeplab_lesson.training.step_loss import StepLoss
from deeplab_lesson.training.trainer import Trainer, TrainResult, train
from deeplab_lesson.training.update_rules import UPDATE_RULES

__all__ = [
    "SCHEDULES",
    "UPDATE_RULES",
    "Evaluation",
    "PseudoLabels",
    "StepLoss",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "UnlabeledPictures",
    "build_optimizer",
    "build_schedule",
    "class_thresholds",
    "cosine_schedule",
    "evaluate",
    "freeze_batch_norm",
    "group_table",
    "load_checkpoint",
    "load_weights",
    "momentum_from_decay",
    "open_dataset",
    "parameter_groups",
    "poly_schedule",
    "preset_config",
    "read_metadata",
    "save_checkpoint",
    "self_train",
    "set_batch_norm_momentum",
    "step_schedule",
    "train",
]
