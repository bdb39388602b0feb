"""A module's forward pass as a torch.fx graph of PyTorch's basic operations, with the shape of every tensor.

The tracer is `make_fx`, not `torch.fx.symbolic_trace`: it runs the module once on tensors of the meta device,
which have shapes and no numbers, and writes down the operations that reach PyTorch's core. Python code that looks
at sizes runs as it stands (resizing to another map's size, checks, loops over scales), and a network of any width
takes no memory.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

IMAGE_SIZE = (256, 256)  # a multiple of every output stride, so that the scale factors of resizing are whole numbers


@dataclass(frozen=True)
class Trace:
    """The graph of one forward pass."""

    graph: fx.Graph
    image: fx.Node
    output: fx.Node  # the output that was asked for
    names: dict[fx.Node, str]  # of the parameters and buffers, as in the module's state_dict


def meta_copy(module: nn.Module) -> nn.Module:
    """Copy a module to the meta device without copying its numbers first."""
    memo: dict[int, Tensor] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, memo)


def trace(
    module: nn.Module,
    input_size: tuple[int, int] = IMAGE_SIZE,
    *,
    in_channels: int | None = None,
    output: int | str | None = None,
) -> Trace:
    """Trace `module` in eval mode on one image [1, in_channels, *input_size].

    Args:
        in_channels: None takes those of the module's first convolution.
        output: which one, where the module returns several: a position or a key. None is the last of a sequence
            (of a trunk: its deepest map) and "out" of a dict.
    """
    module = meta_copy(module).eval()
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    size = (1, in_channels or first_in_channels(module), *input_size)

    def forward(state: dict[str, Tensor], images: Tensor) -> Tensor:
        return choose_output(functional_call(module, state, (images,)), output)

    with torch.no_grad():
        traced: Callable[..., Any] = make_fx(forward, tracing_mode="fake")(state, torch.empty(size, device="meta"))
    assert isinstance(traced, fx.GraphModule)
    nodes = list(traced.graph.nodes)
    *parameters, image = [node for node in nodes if node.op == "placeholder"]
    last = nodes[-1].args[0]
    result = last[0] if isinstance(last, list | tuple) else last
    assert isinstance(result, fx.Node)
    return Trace(traced.graph, image, result, dict(zip(parameters, state, strict=True)))


def choose_output(outputs: Any, output: int | str | None) -> Tensor:
    """Take one tensor of what a module returns; see `trace`."""
    if not isinstance(outputs, Tensor):
        default: int | str = "out" if isinstance(outputs, dict) else -1
        outputs = outputs[default if output is None else output]
    assert isinstance(outputs, Tensor)
    return outputs


def first_in_channels(module: nn.Module) -> int:
    """The input channels of a module's first convolution; 3 where there is none."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            return layer.in_channels
    return 3


def shape(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's tensor, or of its first where it returns several."""
    value = node.meta["val"]
    first = value[0] if isinstance(value, list | tuple) else value
    return tuple(first.shape)
