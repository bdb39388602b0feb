"""Residual trunks: torchvision's ResNet and a narrow one, made dense at the output stride asked for."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeplab_lesson.backbones.imagenet import torchvision_classifier
from deeplab_lesson.layers.dilation import DilationPlan, make_dense

STAGES = ("layer1", "layer2", "layer3", "layer4")


class _ResidualTrunk(nn.Module):
    """Four residual stages behind a stem; subclasses build them, this one makes them dense and runs them."""

    channels: tuple[int, int, int, int]  # of the four stages
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def _stem(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def _make_dense(self, plan: DilationPlan) -> None:
        for name in STAGES:
            make_dense(getattr(self, name), plan[name])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the outputs of the four stages.

        Shapes, for ResNet-50 and a 513x513 image at output stride 16:
            [N, 256, 129, 129], [N, 512, 65, 65], [N, 1024, 33, 33], [N, 2048, 33, 33]
        """
        x = self._stem(images)  # [N, 64, 129, 129]
        c2 = self.layer1(x)  # [N, 256, 129, 129]
        c3 = self.layer2(c2)  # [N, 512, 65, 65]
        c4 = self.layer3(c3)  # [N, 1024, 33, 33]
        c5 = self.layer4(c4)  # [N, 2048, 33, 33]
        return c2, c3, c4, c5


class ResNetTrunk(_ResidualTrunk):
    """torchvision's ResNet without its classifier, dense at the plan's output stride.

    Args:
        depth: 18, 34, 50, 101 or 152.
        plan: from `plan_dilation`.
        pretrained: load torchvision's ImageNet weights (IMAGENET1K_V1), downloaded on first use.

    Raises:
        ValueError: another depth.
        ConnectionError: the weights cannot be downloaded.

    Source: He et al. 2015 (arXiv 1512.03385); torchvision strides in the 3x3 of a bottleneck, not in its first 1x1.
    """

    def __init__(self, depth: int, plan: DilationPlan, *, pretrained: bool = False) -> None:
        super().__init__()
        if depth not in (18, 34, 50, 101, 152):
            raise ValueError(f"there is no ResNet-{depth}: allowed are 18, 34, 50, 101, 152")
        resnet = torchvision_classifier(f"resnet{depth}", f"ResNet-{depth}", pretrained=pretrained)
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (getattr(resnet, name) for name in STAGES)
        self.channels = (64, 128, 256, 512) if depth < 50 else (256, 512, 1024, 2048)
        self._make_dense(plan)

    def _stem(self, images: Tensor) -> Tensor:
        x: Tensor = self.relu(self.bn1(self.conv1(images)))  # [N, 64, 257, 257]
        if any(isinstance(side, torch.SymInt) for side in (x.shape[2], x.shape[3])):
            # torch.export with a size left open: at stride 2 it would fix which sides are odd (pytorch/pytorch#124507)
            return F.max_pool2d(x, 3, stride=1, padding=1)[:, :, ::2, ::2]  # [N, 64, 129, 129]
        pooled: Tensor = self.maxpool(x)  # [N, 64, 129, 129]
        return pooled


class MiniTrunk(_ResidualTrunk):
    """A narrow residual trunk for two CPU cores: 3x3 stem, six of torchvision's BasicBlocks, same strides as ResNet.

    Shapes, for a 128x128 picture at output stride 16:
        [N, 24, 32, 32], [N, 48, 16, 16], [N, 64, 8, 8], [N, 96, 8, 8]
    """

    channels = (24, 48, 64, 96)
    BLOCKS = (1, 1, 2, 2)

    def __init__(self, plan: DilationPlan) -> None:
        super().__init__()
        width = self.channels[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        for position, name in enumerate(STAGES):
            in_width = self.channels[max(0, position - 1)]
            blocks = self.BLOCKS[position]
            setattr(self, name, _basic_stage(in_width, self.channels[position], blocks, 1 if position == 0 else 2))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self._make_dense(plan)

    def _stem(self, images: Tensor) -> Tensor:
        x: Tensor = self.stem(images)
        return x


def _basic_stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride != 1 or in_channels != channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
        )
    first = BasicBlock(in_channels, channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1)))
