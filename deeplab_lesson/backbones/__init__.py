"""Classification trunks made dense."""

from deeplab_lesson.backbones.resnet import MiniTrunk, ResNetTrunk

__all__ = ["MiniTrunk", "ResNetTrunk"]
