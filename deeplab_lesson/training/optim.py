"""Parameter groups and learning-rate schedules of the papers."""

from collections.abc import Callable

import torch
from torch import nn

from deeplab_lesson.models.base import SegmentationModel


def poly_schedule(total_steps: int, power: float = 0.9, warmup_steps: int = 0) -> Callable[[int], float]:
    """Return the factor of the learning rate at a step: (1 - step / total_steps) ** power.

    Args:
        power: 0.9 in v2, v3 and v3+.
        warmup_steps: a linear rise in front, for training from random weights.

    Source: v2 section 4.1.1 (arXiv 1606.00915), after ParseNet.

    >>> schedule = poly_schedule(1000)
    >>> [round(schedule(step), 3) for step in (0, 500, 900, 1000)]
    [1.0, 0.536, 0.126, 0.0]
    """
    if total_steps < 1 or not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"total_steps={total_steps}, warmup_steps={warmup_steps}: allowed are at least one step and "
            "fewer warm-up steps than steps"
        )

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        return float(rise * max(0.0, 1 - step / total_steps) ** power)

    return factor


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, head_multiplier: float = 1.0
) -> list[dict[str, object]]:
    """Sort a model's parameters into named groups for torch.optim.

    Weights of convolutions decay; biases and BatchNorm's scale and shift do not. Parameters outside
    the trunk take `head_multiplier` times the learning rate (v1 and v2: 10; 1 without ImageNet weights).

    Returns:
        Up to four groups, each a dict with "name", "params", "lr", "weight_decay".
    """
    head = {id(p) for p in model.head_parameters()} if isinstance(model, SegmentationModel) else set()
    groups: dict[str, dict[str, object]] = {}
    for part, multiplier in (("trunk", 1.0), ("head", head_multiplier)):
        for kind, decay in (("weights", weight_decay), ("biases and norms", 0.0)):
            name = f"{part} {kind}"
            groups[name] = {
                "name": name,
                "params": [],
                "lr": learning_rate * multiplier,
                "weight_decay": decay,
            }
    for parameter in model.parameters():
        part = "head" if id(parameter) in head else "trunk"
        kind = "weights" if parameter.ndim > 1 else "biases and norms"
        members = groups[f"{part} {kind}"]["params"]
        assert isinstance(members, list)
        members.append(parameter)
    return [group for group in groups.values() if group["params"]]


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to its initial learning rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
