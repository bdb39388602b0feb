"""Classification trunks made dense."""

from deeplab_lesson.backbones.mobilenet import MOBILENET_STRIDES, MobileNetV3Trunk
from deeplab_lesson.backbones.resnet import MiniTrunk, ResNetTrunk
from deeplab_lesson.backbones.vgg import VGG_STRIDES, ConvolutionalClassifier, VGG16Trunk
from deeplab_lesson.backbones.xception import XCEPTION_STRIDES, Xception65Trunk

__all__ = [
    "MOBILENET_STRIDES",
    "VGG_STRIDES",
    "XCEPTION_STRIDES",
    "ConvolutionalClassifier",
    "MiniTrunk",
    "MobileNetV3Trunk",
    "ResNetTrunk",
    "VGG16Trunk",
    "Xception65Trunk",
]
