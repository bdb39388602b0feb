"""The size and cost of every model as a table, and beside the papers' own numbers."""

from collections.abc import Sequence

import torch

from deeplab_lesson.cost import PAPERS_SIZE, cost, count_multiply_adds
from deeplab_lesson.models.registry import create_model

# Multiply-adds of ResNet-101 at 513x513: v3+ table 3 (arXiv 1802.02611), without decoder also v3 (1706.05587).
PAPERS_MULTIPLY_ADDS = {
    ("v3", 32): 52.43e9, ("v3", 16): 81.02e9, ("v3", 8): 276.18e9,
    ("v3+", 32): 74.20e9, ("v3+", 16): 101.28e9, ("v3+", 8): 297.92e9,
}  # fmt: skip


def parameter_table(names: Sequence[str]) -> str:
    """The parameters of models at 21 classes."""
    lines = [f"{'model':<28}{'parameters':>14}"]
    for name in names:
        with torch.device("meta"):  # shapes without memory: the largest has half a gigabyte of weights
            model = create_model(name)
        lines.append(f"{name:<28}{sum(p.numel() for p in model.parameters()):>14,}")
    return "\n".join(lines)


def cost_table(names: Sequence[str], input_size: tuple[int, int] = PAPERS_SIZE) -> str:
    """Parameters, multiply-adds and activation memory of models at 21 classes, for one image of `input_size`."""
    height, width = input_size
    lines = [
        f"for one image of {height}x{width} (height x width), 21 classes, each model's own output stride",
        f"{'model':<28}{'parameters':>14}{'multiply-adds':>16}{'activations':>14}",
    ]
    for name in names:
        with torch.device("meta"):
            counted = cost(create_model(name), input_size)
        lines.append(
            f"{name:<28}{counted.parameters:>14,}{counted.multiply_adds / 1e9:>14.2f} B"
            f"{counted.activation_bytes / 2**20:>10,.0f} MiB"
        )
    return "\n".join(lines)


def papers_table() -> str:
    """v3 and v3+ on ResNet-101 at 513x513: our multiply-adds, the papers', and where the difference comes from."""
    lines = [f"{'ResNet-101 at 513x513':<28}{'output stride':>14}{'multiply-adds':>16}{'paper':>14}{'difference':>14}"]
    for (version, output_stride), theirs in PAPERS_MULTIPLY_ADDS.items():
        with torch.device("meta"):
            model = create_model("deeplabv3plus_resnet101", output_stride=output_stride, decoder=version == "v3+")
            ours = count_multiply_adds(model)
        cells = "".join(
            f"{value / 1e9:>{width}.2f} B" for value, width in ((ours, 14), (theirs, 12), (theirs - ours, 12))
        )
        lines.append(f"{version:<28}{output_stride:>14}{cells}")
    return "\n".join(
        [
            *lines,
            "The papers' trunk begins with three 3x3 convolutions in the place of one 7x7 (7.1 B more) and strides in",
            "a stage's last unit (1.1 to 3.2 B less). With a 3x3 of rate r counted on a map enlarged to a multiple of",
            "r, as TensorFlow's space-to-batch does, this gives the papers' numbers to 0.3 B (but 102.6 for 101.28).",
        ]
    )
