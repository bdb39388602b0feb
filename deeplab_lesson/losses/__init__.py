"""Losses: logits in, void ignored, mean over the pixels or classes that count."""

from deeplab_lesson.losses.batch import count_valid_pixels
from deeplab_lesson.losses.class_weights import median_frequency_weights, median_frequency_weights_from_counts
from deeplab_lesson.losses.combined import LOSSES, CombinedLoss, combine
from deeplab_lesson.losses.edges import edge_logits, edge_loss
from deeplab_lesson.losses.overlap import dice_loss, lovasz_softmax
from deeplab_lesson.losses.pixelwise import binary_cross_entropy, cross_entropy, focal_loss, ohem_cross_entropy

__all__ = [
    "LOSSES",
    "CombinedLoss",
    "binary_cross_entropy",
    "combine",
    "count_valid_pixels",
    "cross_entropy",
    "dice_loss",
    "edge_logits",
    "edge_loss",
    "focal_loss",
    "lovasz_softmax",
    "median_frequency_weights",
    "median_frequency_weights_from_counts",
    "ohem_cross_entropy",
]
