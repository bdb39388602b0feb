"""Parameter groups of the papers, and the optimizer that a training's settings ask for."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training.config import TrainConfig
from deeplab_lesson.training.schedules import Schedule, cosine_schedule, poly_schedule, step_schedule

WEIGHTS, BIASES, NORMS = "weights", "biases", "norms"


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    head_multiplier: float = 1.0,
    bias_multiplier: float = 1.0,
) -> list[dict[str, Any]]:
    """Sort a model's trained parameters into named groups for torch.optim.

    Weights of convolutions decay; biases and BatchNorm's scale and shift do not. Frozen parameters are left out.

    Args:
        head_multiplier: learning rate of the parameters outside of the trunk over the trunk's (v1 and v2: 10;
            1 without ImageNet weights).
        bias_multiplier: learning rate of a convolution's bias over that of its weights (v1 and v2: 2, which makes 20
            for the head's). BatchNorm's shift is no bias in this sense and keeps its part's rate.

    Returns:
        Up to four groups, each a dict with "name", "params", "lr", "weight_decay"; up to six where biases have a rate
        of their own.

    Raises:
        ValueError: every parameter is frozen.

    Source: v1 section 5 (arXiv 1412.7062), and the layers' multipliers in its Caffe model.
    """
    head = {id(p) for p in model.head_parameters()} if isinstance(model, SegmentationModel) else set()
    kinds = _kinds(model)
    together = "biases and norms"  # one group as long as they have one rate
    names = {WEIGHTS: WEIGHTS, BIASES: BIASES, NORMS: NORMS}
    if bias_multiplier == 1:
        names |= {BIASES: together, NORMS: together}
    groups: dict[str, dict[str, Any]] = {}
    for part, part_multiplier in (("trunk", 1.0), ("head", head_multiplier)):
        for kind, name in names.items():
            groups[f"{part} {name}"] = {
                "name": f"{part} {name}",
                "params": [],
                "lr": learning_rate * part_multiplier * (bias_multiplier if kind == BIASES else 1.0),
                "weight_decay": weight_decay if kind == WEIGHTS else 0.0,
            }
    for parameter in model.parameters():
        if parameter.requires_grad:
            part = "head" if id(parameter) in head else "trunk"
            groups[f"{part} {names[kinds[id(parameter)]]}"]["params"].append(parameter)
    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        raise ValueError("every parameter of the model is frozen: nothing can be trained; freeze fewer of them")
    return filled


def group_table(groups: Sequence[dict[str, Any]]) -> str:
    """Return the groups as a table: name, numbers in it, learning rate, weight decay."""
    width = max(len("group"), *(len(group["name"]) for group in groups))
    lines = [f"{'group':<{width}}  {'parameters':>11}  {'rate':>8}  {'decay':>8}"]
    for group in groups:
        count = sum(parameter.numel() for parameter in group["params"])
        lines.append(f"{group['name']:<{width}}  {count:>11,}  {group['lr']:>8g}  {group['weight_decay']:>8g}")
    return "\n".join(lines)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer that the settings ask for, over the model's groups of parameters."""
    groups = parameter_groups(
        model, config.learning_rate, config.weight_decay, config.head_multiplier, config.bias_multiplier
    )
    # A CPU has it too, but its bits are others than those of the trainings that were saved before.
    fused = config.fused_optimizer and groups[0]["params"][0].device.type == "cuda"
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.momentum, 0.999), fused=fused)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=fused)


def build_schedule(config: TrainConfig) -> Schedule:
    """Return the schedule of the learning rate that the settings ask for."""
    if config.schedule == "step":
        return step_schedule(config.step_every, warmup_steps=config.warmup_steps)
    if config.schedule == "cosine":
        return cosine_schedule(config.steps, config.warmup_steps)
    return poly_schedule(config.steps, config.power, config.warmup_steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to its initial learning rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def _kinds(model: nn.Module) -> dict[int, str]:
    """For the id of each parameter: a weight, the bias beside a weight, or a number of a normalization."""
    kinds = {}
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        beside_weights = any(parameter.ndim > 1 for parameter in own.values())
        for parameter in own.values():
            kinds[id(parameter)] = WEIGHTS if parameter.ndim > 1 else BIASES if beside_weights else NORMS
    return kinds
