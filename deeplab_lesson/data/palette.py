"""The color map of PASCAL VOC: how a class id becomes a color that people can tell apart."""

import numpy as np
from numpy.typing import NDArray

VOID = 255  # VOC's label for "not scored": contours and things nobody could decide

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train",
    "tv monitor",
)  # fmt: skip


def voc_palette() -> NDArray[np.uint8]:
    """Compute VOC's colors from the bits of the class id.

    Bits 0, 3, 6 of the id become the high bits of red, bits 1, 4, 7 those of green, bits 2, 5 those of blue:
    ids that differ in a low bit get colors that differ much.

    Returns:
        uint8 [256, 3]: RGB by class id. Row 0 (background) is black, row 255 (void) is cream (224, 224, 192).

    Source: the PASCAL VOC development kit, VOCcolormap.m.
    """
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            bit = (ids >> (3 * level + channel)) & 1
            palette[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return palette


VOC_PALETTE = voc_palette()


def colorize(labels: NDArray[np.integer], palette: NDArray[np.uint8] = VOC_PALETTE) -> NDArray[np.uint8]:
    """Turn class ids [H, W] into an RGB picture uint8 [H, W, 3]."""
    colors: NDArray[np.uint8] = palette[labels]
    return colors
