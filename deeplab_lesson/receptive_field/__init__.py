"""The receptive field of a module: in closed form, as a table of its layers, and measured."""

from deeplab_lesson.receptive_field.closed_form import (
    LayerField,
    LayerTable,
    ReceptiveField,
    layer_table,
    receptive_field,
)
from deeplab_lesson.receptive_field.gradient import gradient_receptive_field

__all__ = [
    "LayerField",
    "LayerTable",
    "ReceptiveField",
    "gradient_receptive_field",
    "layer_table",
    "receptive_field",
]
