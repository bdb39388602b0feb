"""The pieces that the papers introduce."""

from deeplab_lesson.layers.aspp import ASPP, ImagePooling
from deeplab_lesson.layers.atrous import (
    atrous_by_phases,
    atrous_by_sum,
    atrous_by_zero_inserted_kernel,
    effective_kernel_size,
    gridding_coverage,
    valid_weight_counts,
)
from deeplab_lesson.layers.convolution import ConvBNReLU, conv_bn_relu
from deeplab_lesson.layers.convolutionalize import convolution_from_linear, subsample_kernel
from deeplab_lesson.layers.dilation import DilationPlan, make_dense, plan_dilation
from deeplab_lesson.layers.resize import crop_corner, resize_features, resize_labels

__all__ = [
    "ASPP",
    "ConvBNReLU",
    "DilationPlan",
    "ImagePooling",
    "atrous_by_phases",
    "atrous_by_sum",
    "atrous_by_zero_inserted_kernel",
    "conv_bn_relu",
    "convolution_from_linear",
    "crop_corner",
    "effective_kernel_size",
    "gridding_coverage",
    "make_dense",
    "plan_dilation",
    "resize_features",
    "resize_labels",
    "subsample_kernel",
    "valid_weight_counts",
]
