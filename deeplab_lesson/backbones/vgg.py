"""VGG-16 made dense, and its fully connected layers as convolutions.

Source: Simonyan, Zisserman 2014 (arXiv 1409.1556), configuration D.
"""

from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

from deeplab_lesson.backbones.imagenet import torchvision_classifier
from deeplab_lesson.layers.convolutionalize import convolution_from_linear, subsample_kernel
from deeplab_lesson.layers.dilation import DilationPlan

STAGES = ((1, 2, 64), (2, 2, 128), (3, 3, 256), (4, 3, 512), (5, 3, 512))  # number, 3x3 convolutions, channels
VGG_STRIDES = {"pool1": 2, "pool2": 2, "pool3": 2, "pool4": 2, "pool5": 2}
LAST_MAP = 7  # the classifier reads pool5 of a 224x224 picture
FULLY_CONNECTED = 4096  # channels of fc6 and fc7

Pools = Literal["dilated", "undilated", "caffe"]
POOLS = ("dilated", "undilated", "caffe")


class VGG16Trunk(nn.Module):
    """The thirteen convolutions and five poolings of VGG-16, dense at the plan's output stride.

    A pooling whose stride is removed still takes its maximum, at every position; the convolutions after it take the
    next rate. At output stride 8 those are pool4, pool5 and conv5 at rate 2.

    Sizes are halved rounding up, as Caffe does (torchvision rounds down; they agree where 32 divides the size).

    Args:
        plan: `plan_dilation(output_stride, VGG_STRIDES)`.
        pools: "dilated" is 2x2, at the rate of the grid that it reads: the exact conversion, in which the dense
            network, subsampled, is the strided one. "undilated" is 2x2 whose neighbors are always adjacent, as when
            nothing but the stride of torchvision's layers is changed: from the second removed stride on its windows
            are not the strided network's. "caffe" is 3x3 with padding 1 and undilated, as the released LargeFOV and MSc
            files have (LargeFOV also averages 3x3 before fc6, which the paper does not mention and which is left out).

    Raises:
        ValueError: other pools.

    Alignment at output stride 8: a 2x2 without stride moves the map by half a position. "undilated" pads pool4 on one
    side and pool5 on the other, so that they cancel; "dilated" is left 4 pixels to the bottom right; 3x3 moves nothing.

    Source: Chen et al. 2014 (arXiv 1412.7062), section 3.1.
    """

    channels = tuple(channels for _, _, channels in STAGES)
    conv1: nn.Sequential
    conv2: nn.Sequential
    conv3: nn.Sequential
    conv4: nn.Sequential
    conv5: nn.Sequential
    pool1: nn.Module
    pool2: nn.Module
    pool3: nn.Module
    pool4: nn.Module
    pool5: nn.Module

    def __init__(self, plan: DilationPlan, *, pools: Pools = "dilated") -> None:
        super().__init__()
        if pools not in POOLS:
            raise ValueError(f"pools={pools!r}: allowed are {', '.join(POOLS)}; take 'dilated', the exact conversion")
        in_channels, before = 3, "right"
        for number, count, channels in STAGES:
            stage = plan[f"pool{number}"]
            setattr(self, f"conv{number}", _convolutions(in_channels, channels, count, stage.rate_before))
            rate = stage.rate_before if pools == "dilated" else 1
            setattr(self, f"pool{number}", _pool(3 if pools == "caffe" else 2, stage.stride, rate, before))
            if stage.stride == 1:  # the next one pads on the other side
                before = "left" if before == "right" else "right"
            in_channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the outputs of the five poolings.

        Shapes, for a 321x321 image at output stride 8:
            [N, 64, 161, 161], [N, 128, 81, 81], [N, 256, 41, 41], [N, 512, 41, 41], [N, 512, 41, 41]
        """
        pool1 = self.pool1(self.conv1(images))  # [N, 64, 161, 161]
        pool2 = self.pool2(self.conv2(pool1))  # [N, 128, 81, 81]
        pool3 = self.pool3(self.conv3(pool2))  # [N, 256, 41, 41]
        pool4 = self.pool4(self.conv4(pool3))  # [N, 512, 41, 41]
        pool5 = self.pool5(self.conv5(pool4))  # [N, 512, 41, 41]
        return pool1, pool2, pool3, pool4, pool5

    def load_features(self, features: nn.Module) -> None:
        """Copy the convolutions of torchvision's `vgg16().features`, in order."""
        pairs = zip(_layers(self, nn.Conv2d), _layers(features, nn.Conv2d), strict=True)
        for ours, theirs in pairs:
            ours.load_state_dict(theirs.state_dict())


class ConvolutionalClassifier(nn.Module):
    """fc6 and fc7, VGG-16's two hidden fully connected layers, as convolutions that keep the map's size.

    Shapes, for DeepLab-LargeFOV (3x3 at rate 12, 1024 channels) and a 321x321 image at output stride 8:
        input   [N,  512, 41, 41]
        output  [N, 1024, 41, 41]

    The kernel spans (kernel_size - 1) * rate + 1 positions. An even kernel keeps the map's size with equal padding on
    both sides if its rate is even (4x4 at rate 4: 6 and 6); at an odd rate it needs one more on the bottom right.

    Source: Long et al. 2015 (arXiv 1411.4038), section 3.1; rates: Chen et al. 2014 (arXiv 1412.7062), section 3.
    """

    def __init__(
        self, in_channels: int, channels: int, kernel_size: int, rate: int = 1, *, dropout: float = 0.5
    ) -> None:
        super().__init__()
        margin = (kernel_size - 1) * rate
        padding = margin // 2 if margin % 2 == 0 else "same"  # torch's "same" puts the odd one on the bottom right
        self.fc6 = nn.Conv2d(in_channels, channels, kernel_size, padding=padding, dilation=rate)
        self.fc7 = nn.Conv2d(channels, channels, kernel_size=1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.channels = channels
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        x: Tensor = self.dropout(self.relu(self.fc6(features)))  # [N, 1024, 41, 41]
        x = self.dropout(self.relu(self.fc7(x)))  # [N, 1024, 41, 41]
        return x

    def load_classifier(self, classifier: nn.Module) -> None:
        """Weight surgery: take fc6 and fc7 from torchvision's `vgg16().classifier`, decimated where ours are smaller.

        Raises:
            ValueError: a kernel or a number of channels that even steps through VGG-16's cannot give.
        """
        linear6, linear7, _ = (layer for layer in classifier.modules() if isinstance(layer, nn.Linear))
        large6 = convolution_from_linear(linear6, STAGES[-1][2], LAST_MAP)  # [4096, 512, 7, 7]
        large7 = convolution_from_linear(linear7, linear6.out_features)  # [4096, 4096, 1, 1]
        small6 = subsample_kernel(large6, self.fc6.kernel_size[0], self.channels)  # [1024, 512, 3, 3]
        small7 = subsample_kernel(large7, 1, self.channels, self.channels)  # [1024, 1024, 1, 1]
        self.fc6.load_state_dict(small6.state_dict())
        self.fc7.load_state_dict(small7.state_dict())


def load_imagenet_weights(trunk: VGG16Trunk, classifiers: Iterable[ConvolutionalClassifier]) -> None:
    """Start the trunk and every given pair of fc6 and fc7 from torchvision's VGG-16, downloaded on first use.

    Raises:
        ConnectionError: the weights cannot be downloaded.
    """
    vgg16 = torchvision_classifier("vgg16", "VGG-16", pretrained=True)
    trunk.load_features(vgg16.features)
    for classifier in classifiers:
        classifier.load_classifier(vgg16.classifier)


def parameters_without_imagenet_weights(model: nn.Module) -> list[nn.Parameter]:
    """Those outside VGG-16, whose fc6 and fc7 count with it; on another trunk all those outside the trunk."""
    trunk = model.backbone
    covered = _layers(model, ConvolutionalClassifier) if isinstance(trunk, VGG16Trunk) else []
    known = {id(parameter) for module in [trunk, *covered] for parameter in module.parameters()}  # type: ignore[union-attr]
    return [parameter for parameter in model.parameters() if id(parameter) not in known]


def _convolutions(in_channels: int, channels: int, count: int, rate: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for position in range(count):
        read = in_channels if position == 0 else channels
        layers += [nn.Conv2d(read, channels, 3, padding=rate, dilation=rate), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _pool(kernel_size: int, stride: int, rate: int, side: str) -> nn.Module:
    """Max-pooling that halves (rounding up) or, without a stride, keeps the size; zero is neutral after a ReLU."""
    if kernel_size == 3:  # (n - 1) // 2 + 1 at stride 2; Caffe's own rounding adds one more at even sizes
        return nn.MaxPool2d(3, stride, padding=1)
    if stride == 2:
        return nn.MaxPool2d(2, stride, ceil_mode=True)
    before = rate // 2 if rate > 1 else int(side == "left")
    after = rate - before
    return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), nn.MaxPool2d(2, 1, dilation=rate))


def _layers(module: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, kind)]
