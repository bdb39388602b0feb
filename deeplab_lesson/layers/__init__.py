"""The pieces that the papers introduce."""

from deeplab_lesson.layers.aspp import ASPP, ImagePooling
from deeplab_lesson.layers.atrous import DilationPlan, make_dense, plan_dilation
from deeplab_lesson.layers.convolution import ConvBNReLU, conv_bn_relu
from deeplab_lesson.layers.resize import resize_features, resize_labels

__all__ = [
    "ASPP",
    "ConvBNReLU",
    "DilationPlan",
    "ImagePooling",
    "conv_bn_relu",
    "make_dense",
    "plan_dilation",
    "resize_features",
    "resize_labels",
]
