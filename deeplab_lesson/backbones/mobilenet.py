"""torchvision's MobileNetV3-Large, made dense at the output stride asked for."""

from collections.abc import Mapping

from torch import Tensor, nn

from deeplab_lesson.backbones.imagenet import torchvision_classifier
from deeplab_lesson.layers.dilation import DilationPlan, StagePlan

MOBILENET_STRIDES: Mapping[str, int] = {"stage1": 4, "stage2": 2, "stage3": 2, "stage4": 2}


class MobileNetV3Trunk(nn.Module):
    """torchvision's MobileNetV3-Large without its classifier, dense at the plan's output stride.

    torchvision's own option (`dilated=True`, output stride 16) also dilates the depthwise convolution whose
    stride it removes. That one still reads the grid in front of the stride: here it keeps rate 1, and only those
    behind it take rate 2, so that the dense network, subsampled, computes what the strided one computes. It does
    so up to squeeze-and-excitation, which averages over whichever map it is given.

    Args:
        plan: from `plan_dilation(output_stride, MOBILENET_STRIDES)`; 32, 16 or 8.
        pretrained: load torchvision's ImageNet weights (IMAGENET1K_V1), downloaded on first use.

    Raises:
        ConnectionError: the weights cannot be downloaded.

    Source: Howard et al. 2019 (arXiv 1905.02244), table 1.
    """

    channels = (24, 40, 112, 960)  # of the four stages; the first, at stride 4, feeds v3+'s decoder

    def __init__(self, plan: DilationPlan, *, pretrained: bool = False) -> None:
        super().__init__()
        features = torchvision_classifier("mobilenet_v3_large", "MobileNetV3-Large", pretrained=pretrained).features
        assert isinstance(features, nn.Sequential)
        self.stage1 = features[:4]  # the 3x3 stem and three inverted residuals
        self.stage2 = features[4:7]
        self.stage3 = features[7:13]
        self.stage4 = features[13:]  # three inverted residuals, and the 1x1 to 960 channels
        for stage in plan.stages:
            make_sequence_dense(getattr(self, stage.name), stage)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the outputs of the four stages.

        Shapes, for a 513x513 image at output stride 16:
            [N, 24, 129, 129], [N, 40, 65, 65], [N, 112, 33, 33], [N, 960, 33, 33]
        """
        c2 = self.stage1(images)  # [N, 24, 129, 129]
        c3 = self.stage2(c2)  # [N, 40, 65, 65]
        c4 = self.stage3(c3)  # [N, 112, 33, 33]
        c5 = self.stage4(c4)  # [N, 960, 33, 33]
        return c2, c3, c4, c5


def make_sequence_dense(stage: nn.Module, plan: StagePlan) -> None:
    """Change one stage in place: its stride goes, rates come. Its convolutions must stand in forward order."""
    if plan.removed == 1 and plan.rate_before == 1:
        return
    rate = plan.rate_before
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):  # a 1x1 reads one position at any rate
            module.dilation = (rate, rate)
            module.padding = (rate * (module.kernel_size[0] // 2), rate * (module.kernel_size[1] // 2))
            if module.stride != (1, 1) and plan.removed > 1:
                module.stride = (1, 1)
                rate *= plan.removed
