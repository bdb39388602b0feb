"""From output stride to strides and rates: how a strided network is made dense."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from deeplab_lesson.layers.checks import check_whole

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
    unit_rates: tuple[int, ...] = ()  # multi-grid: a factor for each residual unit, times `rate_after`

    @property
    def rates(self) -> str:
        """The rates in words: "2", "1 -> 2" where a stride is removed inside, "2, 4, 8" with multi-grid."""
        if self.unit_rates:
            return ", ".join(str(self.rate_after * unit) for unit in self.unit_rates)
        return str(self.rate_after) if self.removed == 1 else f"{self.rate_before} -> {self.rate_after}"


@dataclass(frozen=True)
class DilationPlan:
    """What `plan_dilation` decides. `print(plan)` shows it as a table."""

    output_stride: int
    stages: tuple[StagePlan, ...]
    aspp_rates: tuple[int, ...]

    def __getitem__(self, name: str) -> StagePlan:
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(
            f"the plan has no stage {name!r}: allowed are {', '.join(stage.name for stage in self.stages)}; make a "
            "plan from the strides of this trunk"
        )

    def with_multi_grid(self, unit_rates: Sequence[int], stages: Sequence[str] = ("layer4",)) -> "DilationPlan":
        """Give every residual unit of these stages its own rate: unit rate times the stage's rate.

        With unit rates (1, 2, 4), layer4 runs at (2, 4, 8) at output stride 16 and at (4, 8, 16) at 8. The stage's
        rate is the one after its stride, from its first unit on: in the authors' code a stage strides in its last
        unit, so that the paper's block4 has one rate, and (1, 1, 1) is (2, 2, 2) there. Multi-grid leaves the rule
        of `plan_dilation` on purpose: the dense network is no longer the strided one computed densely.

        Raises:
            ValueError: unit rates that are not whole numbers of at least 1.

        Source: v3 section 3.2.1 (arXiv 1706.05587).
        """
        if not unit_rates or any(type(rate) is not int or rate < 1 for rate in unit_rates):
            raise ValueError(
                f"multi_grid={unit_rates!r}: allowed are whole numbers of at least 1, one for each residual unit, "
                "such as (1, 2, 4); None runs without multi-grid"
            )
        marked = [replace(s, unit_rates=tuple(unit_rates)) if s.name in stages else s for s in self.stages]
        return replace(self, stages=tuple(marked))

    def __str__(self) -> str:
        width = max(9, *(len(stage.rates) + 2 for stage in self.stages))
        rows = [f"{'stage':<8}{'stride':>8}{'removed':>9}{'rate':>{width}}{'output stride':>15}"]
        for s in self.stages:
            rows.append(f"{s.name:<8}{s.stride:>8}{s.removed:>9}{s.rates:>{width}}{s.output_stride:>15}")
        rates = ", ".join(str(rate) for rate in self.aspp_rates)
        return "\n".join([*rows, f"ASPP rates: {rates}"])


def plan_dilation(
    output_stride: int = 16,
    strides: Mapping[str, int] = RESNET_STRIDES,
    *,
    aspp_rates_at_16: Sequence[float] = ASPP_RATES_AT_16,
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
        ValueError: an output stride that no choice of removed strides gives, strides that are no whole numbers, or
            rates that are not finite numbers above 0.

    Source: v1 section 3.1 (arXiv 1412.7062), v3 section 3.1 (arXiv 1706.05587).

    >>> plan_dilation(16)["layer4"].rate_after
    2
    """
    if not all(0 < base < math.inf for base in aspp_rates_at_16):
        raise ValueError(
            f"aspp_rates_at_16={aspp_rates_at_16!r}: allowed are finite numbers above 0, such as (6, 12, 18)"
        )
    reached, total = [], 1
    for name, stride in strides.items():
        check_whole(f"the stride of {name}", stride)
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

    Raises:
        ValueError: multi-grid with another number of unit rates than there are blocks.
    """
    units = list(blocks)
    if stage.unit_rates and len(stage.unit_rates) != len(units):
        raise ValueError(
            f"multi_grid={stage.unit_rates} has {len(stage.unit_rates)} unit rates, and {stage.name} has {len(units)} "
            f"residual units: give one rate a unit, such as {(1, 2, 4, *[1] * len(units))[: len(units)]}"
        )
    rate = stage.rate_before
    for position, block in enumerate(units):
        for name, module in block.named_children():
            if name.startswith("conv") and isinstance(module, nn.Conv2d):
                if stage.unit_rates:
                    rate = stage.rate_after * stage.unit_rates[position]
                extent = [rate * (size - 1) for size in module.kernel_size]
                module.dilation = (rate, rate)  # 1x1 convolutions read one position: any rate is the same
                module.padding = (extent[0] // 2, extent[1] // 2)
                if module.stride != (1, 1) and stage.removed > 1:
                    module.stride = (1, 1)
                    rate *= stage.removed
        shortcut = getattr(block, "downsample", None)
        if shortcut is not None and stage.removed > 1:
            shortcut[0].stride = (1, 1)
