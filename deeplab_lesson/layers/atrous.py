"""From output stride to strides and rates: how a strided network is made dense."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

RESNET_STRIDES: Mapping[str, int] = {"stem": 4, "layer1": 1, "layer2": 2, "layer3": 2, "layer4": 2}
ASPP_RATES_AT_16 = (6, 12, 18)  # v3 section 4.2; doubled at output stride 8


@dataclass(frozen=True)
class StagePlan:
    """One stage: the stride it keeps, and the rates before and after the stride that was removed in it."""

    name: str
    stride: int  # kept
    removed: int  # stride taken out; the stage reads its input at `rate_before` and goes on at `rate_after`
    rate_before: int
    rate_after: int
    output_stride: int  # of the stage's output


@dataclass(frozen=True)
class DilationPlan:
    """What `plan_dilation` decides. `print(plan)` shows it as a table."""

    output_stride: int
    stages: tuple[StagePlan, ...]
    aspp_rates: tuple[int, ...]

    def __getitem__(self, name: str) -> StagePlan:
        return next(stage for stage in self.stages if stage.name == name)

    def __str__(self) -> str:
        rows = [f"{'stage':<8}{'stride':>8}{'removed':>9}{'rate':>9}{'output stride':>15}"]
        for s in self.stages:
            rate = str(s.rate_after) if s.rate_before == s.rate_after else f"{s.rate_before} -> {s.rate_after}"
            rows.append(f"{s.name:<8}{s.stride:>8}{s.removed:>9}{rate:>9}{s.output_stride:>15}")
        rates = ", ".join(str(rate) for rate in self.aspp_rates)
        return "\n".join([*rows, f"ASPP rates: {rates}"])


def plan_dilation(
    output_stride: int = 16,
    strides: Mapping[str, int] = RESNET_STRIDES,
    *,
    aspp_rates_at_16: Sequence[int] = ASPP_RATES_AT_16,
) -> DilationPlan:
    """Decide which strides a trunk keeps for an output stride, and the rates that make up for the others.

    The rule: *the rate of a convolution is the product of the strides removed before it*. A convolution whose
    own stride is removed still reads the grid in front of it, so it keeps the rate of that grid ("1 -> 2" in
    the table); those that follow take the new rate. Then the dense network, subsampled, computes the same
    features as the strided one.

    Args:
        output_stride: image size / feature map size at the trunk's end; 8, 16 or 32 for a ResNet (4 also works).
        strides: the trunk's stages in order, with their strides.
        aspp_rates_at_16: the head's rates at output stride 16; they scale with the resolution of the map.

    Raises:
        ValueError: an output stride that no choice of removed strides gives.

    Source: v1 section 3.1 (arXiv 1412.7062), v3 section 3.1 (arXiv 1706.05587).

    >>> plan_dilation(16)["layer4"].rate_after
    2
    """
    reached, total = [], 1
    for stride in strides.values():
        total *= stride
        reached.append(total)
    allowed = sorted({value for value in reached if value > 1})
    if output_stride not in allowed:
        raise ValueError(
            f"output_stride={output_stride!r} is not possible: the strides of this trunk "
            f"({', '.join(f'{name} {stride}' for name, stride in strides.items())}) allow "
            f"{', '.join(str(value) for value in allowed)}; take 16 (or 8, finer and slower)"
        )
    stages, rate, current = [], 1, 1
    for name, stride in strides.items():
        kept = stride if current * stride <= output_stride else 1
        removed = stride // kept
        current *= kept
        stages.append(StagePlan(name, kept, removed, rate, rate * removed, current))
        rate *= removed
    aspp_rates = tuple(max(1, round(base * 16 / output_stride)) for base in aspp_rates_at_16)
    return DilationPlan(output_stride, tuple(stages), aspp_rates)


def make_dense(blocks: Iterable[nn.Module], stage: StagePlan) -> None:
    """Change the residual blocks of one stage in place: strides go, rates come.

    Works on any block whose convolutions are its attributes conv1, conv2, ... in forward order with an optional
    1x1 shortcut in `downsample` (torchvision's BasicBlock and Bottleneck). torchvision's own option refuses
    BasicBlock; dilating every convolution of the stage, as some libraries do, breaks the equality above.
    """
    rate = stage.rate_before
    for block in blocks:
        for name, module in block.named_children():
            if name.startswith("conv") and isinstance(module, nn.Conv2d):
                extent = [rate * (size - 1) for size in module.kernel_size]
                module.dilation = (rate, rate)  # 1x1 convolutions read one position: any rate is the same
                module.padding = (extent[0] // 2, extent[1] // 2)
                if module.stride != (1, 1) and stage.removed > 1:
                    module.stride = (1, 1)
                    rate *= stage.removed
        shortcut = getattr(block, "downsample", None)
        if shortcut is not None and stage.removed > 1:
            shortcut[0].stride = (1, 1)
