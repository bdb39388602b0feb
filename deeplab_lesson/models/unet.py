"""U-Net: a decoder as deep as the encoder, which takes a copy of the encoder's map at every level.

Source: Ronneberger, Fischer, Brox 2015 (arXiv 1505.04597), figure 1.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeplab_lesson.backbones.resnet import MiniTrunk
from deeplab_lesson.layers.dilation import plan_dilation
from deeplab_lesson.layers.one_call import kept_as_one_call
from deeplab_lesson.layers.resize import crop_corner, resize_features
from deeplab_lesson.models.base import SegmentationModel, check_images, check_output_stride, refuse_pretrained

WIDTHS = (64, 128, 256, 512, 1024)  # figure 1: doubled at each pooling
DROPOUT = 0.5  # section 3.1 "at the end of the contracting path"; the authors' phseg_v5: two layers, ratio 0.5
DEEPEST_STRIDE = 16  # four poolings
MINI_WIDTHS = (48, 48, 64)
MINI_DEEPEST_STRIDE = 32

# With padding="valid" every 3x3 takes 2 pixels. A side of 16 m + 60 is even before each of the four poolings,
# and comes out 184 pixels shorter; m = 8 is the first whose logits are not empty.
VALID_REST, VALID_LOSS, VALID_SMALLEST = 60 % 16, 184, 188


def double_convolution(in_channels: int, out_channels: int, padding: int, batch_norm: bool) -> nn.Sequential:
    """Two 3x3 convolutions with ReLU; with BatchNorm, which the paper lacks, they need no bias."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers.append(nn.Conv2d(channels, out_channels, 3, padding=padding, bias=not batch_norm))
        layers += [nn.BatchNorm2d(out_channels)] if batch_norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class ExpandingStep(nn.Module):
    """Up-convolution 2x2, copy and crop, concatenate, two 3x3: one step to the right in figure 1.

    Shapes, for the lowest step of a 572x572 image with padding="valid":
        coarse  [N, 1024, 28, 28]
        skip    [N,  512, 64, 64]
        output  [N,  512, 52, 52]
    """

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, padding: int = 1, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        self.convolutions = double_convolution(out_channels + skip_channels, out_channels, padding, batch_norm)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        enlarged = self.up(coarse)  # [N, 512, 56, 56]
        copied = crop_middle(skip, enlarged)  # [N, 512, 56, 56]
        joined = torch.cat([copied, enlarged], dim=1)  # [N, 1024, 56, 56]
        refined: Tensor = self.convolutions(joined)  # [N, 512, 52, 52]
        return refined


class UNet(SegmentationModel):
    """The network of figure 1, for three channels of color.

    Args:
        padding: "same" pads every convolution, and the image (below and at its right, with zero, the mean color)
            to a multiple of 16; the logits have the image's size. "valid" is the paper's: logits [N, C, H - 184,
            W - 184] of the image's middle, so that labels must be cropped by 92 pixels a side.
        batch_norm: after each 3x3; not in the paper.
        dropout: at the end of the two lowest levels of the contracting path.

    Raises:
        ValueError: an image whose size does not fit padding="valid".
    """

    def __init__(
        self, num_classes: int, *, padding: Literal["same", "valid"], batch_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        if padding not in ("same", "valid"):
            raise ValueError(f"padding={padding!r}: allowed are 'same' (logits of the image's size) and 'valid'")
        self.padding = padding
        pixels = 1 if padding == "same" else 0
        inputs = (3, *WIDTHS[:-1])
        self.contracting = nn.ModuleList(
            double_convolution(narrow, wide, pixels, batch_norm) for narrow, wide in zip(inputs, WIDTHS, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.expanding = nn.ModuleList(
            ExpandingStep(2 * width, width, width, pixels, batch_norm) for width in reversed(WIDTHS[:-1])
        )
        self.classifier = nn.Conv2d(WIDTHS[0], num_classes, kernel_size=1)
        initialize(self)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        check_images(images)  # [N, 3, 572, 572]; the shapes below are those of padding="valid"
        if self.padding == "same":
            x = pad_to_multiple(images, DEEPEST_STRIDE)
        else:
            check_fits_valid(images)
            x = images
        level1 = self.contracting[0](x)  # [N, 64, 568, 568]
        level2 = self.contracting[1](self.pool(level1))  # [N, 128, 280, 280]
        level3 = self.contracting[2](self.pool(level2))  # [N, 256, 136, 136]
        level4 = self.dropout(self.contracting[3](self.pool(level3)))  # [N, 512, 64, 64]
        x = self.dropout(self.contracting[4](self.pool(level4)))  # [N, 1024, 28, 28]
        x = self.expanding[0](x, level4)  # [N, 512, 52, 52]
        x = self.expanding[1](x, level3)  # [N, 256, 100, 100]
        x = self.expanding[2](x, level2)  # [N, 128, 196, 196]
        x = self.expanding[3](x, level1)  # [N, 64, 388, 388]
        logits = self.classifier(x)  # [N, 21, 388, 388]
        if self.padding == "same":
            logits = crop_corner(logits, images.shape[2:])
        return {"out": logits}

    def head_parameters(self) -> list[nn.Parameter]:
        """All: there is no pretrained trunk."""
        return list(self.parameters())


class TrunkUNet(SegmentationModel):
    """U-Net's decoder on a residual trunk: three expanding steps, from stride 32 to 4.

    The trunk's stem has no map at strides 1 and 2 to copy, so that the last enlargement is bilinear, as in v3+.
    """

    def __init__(self, backbone: MiniTrunk, num_classes: int, widths: Sequence[int], *, batch_norm: bool) -> None:
        super().__init__()
        self.backbone = backbone
        c2, c3, c4, c5 = backbone.channels
        self.expanding = nn.ModuleList(
            ExpandingStep(below, skip, width, batch_norm=batch_norm)
            for below, skip, width in zip((c5, *widths[:0:-1]), (c4, c3, c2), reversed(widths), strict=True)
        )
        self.classifier = nn.Conv2d(widths[0], num_classes, kernel_size=1)
        initialize(self.expanding)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        check_images(images)  # [N, 3, 128, 128]
        padded = pad_to_multiple(images, MINI_DEEPEST_STRIDE)
        c2, c3, c4, x = self.backbone(padded)  # [N, 24, 32, 32], [N, 48, 16, 16], [N, 64, 8, 8], [N, 96, 4, 4]
        x = self.expanding[0](x, c4)  # [N, 64, 8, 8]
        x = self.expanding[1](x, c3)  # [N, 48, 16, 16]
        x = self.expanding[2](x, c2)  # [N, 48, 32, 32]
        logits = resize_features(self.classifier(x), padded.shape[2:])  # [N, 21, 128, 128]
        return {"out": crop_corner(logits, images.shape[2:])}


@kept_as_one_call
def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Add zeros (the mean color) below and at the right until both sides are multiples."""
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))


@kept_as_one_call
def crop_middle(skip: Tensor, like: Tensor) -> Tensor:
    """The middle of `skip` at the size of `like`: the gray arrows of figure 1."""
    top, left = ((skip.shape[axis] - like.shape[axis]) // 2 for axis in (2, 3))
    return skip[:, :, top : top + like.shape[2], left : left + like.shape[3]]


@kept_as_one_call
def check_fits_valid(images: Tensor) -> None:
    """Refuse sizes that leave half a pixel at a pooling, or nothing at the end."""
    height, width = images.shape[2:]
    if all(side >= VALID_SMALLEST and side % 16 == VALID_REST for side in (height, width)):
        return
    nearest = []
    for side in (height, width):
        below = max(VALID_SMALLEST, side - (side - VALID_REST) % 16)
        nearest.append(f"{below}" if below >= side else f"{below} or {below + 16}")
    raise ValueError(
        f"images are {height}x{width} (height x width) and padding='valid' fits sides of 16 m + 12 from "
        f"{VALID_SMALLEST}: the nearest are {nearest[0]} for the height and {nearest[1]} for the width; "
        "pad or crop the images, or take padding='same'"
    )


def initialize(module: nn.Module) -> None:
    """Section 3: Gaussian weights of variance 2 / N, N the incoming connections of a unit; no bias at first."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            taps = 1 if isinstance(layer, nn.ConvTranspose2d) else layer.weight[0, 0].numel()  # no overlap at stride 2
            nn.init.normal_(layer.weight, std=(2 / (layer.in_channels * taps)) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def unet(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    padding: Literal["same", "valid"] = "same",
    batch_norm: bool = False,
    dropout: float = DROPOUT,
) -> UNet:
    """U-Net of the published widths: 31,033,045 parameters for 21 classes, 31,031,810 for the paper's 2."""
    check_output_stride(output_stride, DEEPEST_STRIDE, "U-Net undoes all of its strides one by one")
    refuse_pretrained(pretrained_backbone, "U-Net's own encoder")
    return UNet(num_classes, padding=padding, batch_norm=batch_norm, dropout=dropout)


def unet_mini(
    num_classes: int = 21,
    *,
    output_stride: int | None = None,
    pretrained_backbone: bool = False,
    batch_norm: bool = False,
) -> TrunkUNet:
    """U-Net's decoder under a million parameters, on the mini trunk (which has BatchNorm in any case)."""
    check_output_stride(output_stride, MINI_DEEPEST_STRIDE, "U-Net undoes all of its strides one by one")
    refuse_pretrained(pretrained_backbone)
    trunk = MiniTrunk(plan_dilation(MINI_DEEPEST_STRIDE))
    return TrunkUNet(trunk, num_classes, MINI_WIDTHS, batch_norm=batch_norm)
