"""What a network costs: parameters, multiply-adds and activation memory, from shapes alone."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.autograd.graph import saved_tensors_hooks

from deeplab_lesson.receptive_field.checks import one_image
from deeplab_lesson.tracing import first_in_channels, meta_copy, shape, trace

PAPERS_SIZE = (513, 513)  # the crop of v3 and v3+, for which their multiply-adds are counted
aten = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """The cost of one image.

    Attributes:
        parameters: trainable or not.
        multiply_adds: of convolutions and matrix products; one multiplication and one addition count as one, as in
            the papers (`torch.utils.flop_counter` counts two). What works on single values, BatchNorm and
            interpolation among it, is left out, as there.
        activation_bytes: what PyTorch keeps of a forward pass in training for the backward pass, in float32,
            parameters and buffers aside. The peak of a training step is higher: it adds gradients and work space.
    """

    parameters: int
    multiply_adds: int
    activation_bytes: int


def cost(module: nn.Module, input_size: tuple[int, int] = PAPERS_SIZE, *, in_channels: int | None = None) -> Cost:
    """Count the cost of any module for one image [in_channels, *input_size]; nothing is computed and little stored.

    Args:
        in_channels: None takes those of the module's first convolution.

    Raises:
        ValueError: sizes or channels that are no whole numbers from 1, or a module that does not take such an image.

    >>> cost(nn.Conv2d(3, 256, 5), (12, 12))
    Cost(parameters=19456, multiply_adds=1228800, activation_bytes=1728)
    """
    parameters = sum(parameter.numel() for parameter in module.parameters())
    multiply_adds = count_multiply_adds(module, input_size, in_channels=in_channels)
    return Cost(parameters, multiply_adds, _activation_bytes(module, input_size, in_channels))


def count_multiply_adds(
    module: nn.Module, input_size: tuple[int, int] = PAPERS_SIZE, *, in_channels: int | None = None
) -> int:
    """Count the multiply-adds alone, in half the time; see `Cost`."""
    with one_image(module, input_size, in_channels):
        nodes = trace(module, input_size, in_channels=in_channels).graph.nodes
    return sum(_multiply_adds(node) for node in nodes)


def _multiply_adds(node: fx.Node) -> int:
    if node.target is aten.convolution.default:
        images, weight, transposed = node.args[0], node.args[1], node.args[6]
        assert isinstance(images, fx.Node)
        assert isinstance(weight, fx.Node)
        taps = math.prod(shape(weight)[1:])  # [out, in / groups, kh, kw], transposed [in, out / groups, kh, kw]
        return math.prod(shape(images if transposed else node)) * taps
    if node.target in (aten.addmm.default, aten.mm.default, aten.bmm.default):
        left = node.args[1 if node.target is aten.addmm.default else 0]
        assert isinstance(left, fx.Node)
        return math.prod(shape(node)) * shape(left)[-1]
    return 0


def _activation_bytes(module: nn.Module, input_size: tuple[int, int], in_channels: int | None) -> int:
    module = meta_copy(module).train()
    batch = 2  # BatchNorm behind a global mean refuses one
    images = torch.empty(batch, in_channels or first_in_channels(module), *input_size, device="meta")
    own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        module(images)
    return sum(storage.nbytes() for storage in kept.values()) // batch
