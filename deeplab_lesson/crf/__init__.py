"""Conditional random fields: small exact ones on a grid, and the fully connected one of DeepLab v1 and v2."""

from deeplab_lesson.crf import grid
from deeplab_lesson.crf.bilateral_grid import BilateralGrid
from deeplab_lesson.crf.dense import exact_mean_field, free_energy, mean_field
from deeplab_lesson.crf.lattice import PermutohedralLattice
from deeplab_lesson.crf.layer import DenseCRF
from deeplab_lesson.crf.parameters import PRESETS, CRFParameters
from deeplab_lesson.crf.tuning import Search, tune

__all__ = [
    "PRESETS",
    "BilateralGrid",
    "CRFParameters",
    "DenseCRF",
    "PermutohedralLattice",
    "Search",
    "exact_mean_field",
    "free_energy",
    "grid",
    "mean_field",
    "tune",
]
