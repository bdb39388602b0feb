"""The receptive field in closed form: from an output position back to the pixels that it reads."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import fx, nn

from deeplab_lesson.receptive_field.checks import check_position, one_image
from deeplab_lesson.receptive_field.reading import Span, aten, changes_field, read, window
from deeplab_lesson.tracing import IMAGE_SIZE, Trace, shape, trace

Pair = tuple[float, float]


@dataclass(frozen=True)
class ReceptiveField:
    """The pixels that an output position can see, each value as (height, width).

    Output position i sees the pixels `offset + stride * i` to `offset + stride * i + size - 1`. Pixels outside
    the image are padding, hence the negative offsets. An infinite size sees the whole image, whatever its size.
    """

    size: Pair
    stride: Pair
    offset: Pair


def receptive_field(
    module: nn.Module,
    input_size: tuple[int, int] = IMAGE_SIZE,
    *,
    position: tuple[int, int] | None = None,
    output: int | str | None = None,
    in_channels: int | None = None,
    image_level: bool = True,
) -> ReceptiveField:
    """Compute the receptive field of a module that is made of convolutions, pooling, interpolation and branches.

    The module is traced with torch.fx and walked from its output back to its input. An operation on single
    positions changes nothing, branches unite to the smallest interval that holds them all, and a mean over the
    image (or pooling into a fixed number of bins) makes the field infinite.

    Convention where maps are enlarged: two neighbors in the result read the same or neighboring coarse
    positions, so that the field is not the same everywhere. Size and offset are then those of `position`, by
    default the middle one, for an image of `input_size`; stride is the average step.

    Args:
        module: takes images [1, in_channels, height, width]. Its parameters are not read.
        input_size: matters only where maps are resized to each other's size.
        position: (row, column) of the output.
        output: which one, where the module returns several; None is the last of a tuple and "out" of a dict.
        in_channels: None takes those of the module's first convolution.
        image_level: False leaves out the branches that see the whole image, so that the others' field is seen.

    Raises:
        ValueError: an operation whose reading is not known, an output that does not depend on the image, or a module
            that does not take such an image; sizes, channels or a position that are none.

    Source: Araujo, Norris, Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks" (Distill).

    >>> receptive_field(nn.Conv2d(1, 1, 3, stride=2, padding=2, dilation=2))
    ReceptiveField(size=(5, 5), stride=(2, 2), offset=(-2, -2))
    """
    with one_image(module, input_size, in_channels, output):
        traced = trace(module, input_size, in_channels=in_channels, output=output)
    return _field(traced, traced.output, position, image_level)


@dataclass(frozen=True)
class LayerField:
    """One line of the layer table, each value as (height, width)."""

    name: str
    kernel: tuple[float, ...]  # empty where there is no fixed window, as in interpolation
    stride: tuple[float, ...]  # below 1 where the map is enlarged
    rate: tuple[float, ...]
    output_size: tuple[int, ...]
    field: ReceptiveField  # of the layer's middle position


@dataclass(frozen=True)
class LayerTable:
    """The layers that widen the field or change the grid, in forward order, and the output. `print` shows them."""

    rows: tuple[LayerField, ...]

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows) + 2
        lines = [f"{'layer':<{width}}{'kernel':>8}{'stride':>8}{'rate':>6}{'map':>11}{'field':>13}{'step':>8}"]
        for row in self.rows:
            cells = (row.kernel, row.stride, row.rate)
            geometry = "".join(f"{_brief(cell):>{wide}}" for cell, wide in zip(cells, (8, 8, 6), strict=True))
            size = "x".join(map(str, row.output_size))
            lines.append(
                f"{row.name:<{width}}{geometry}{size:>11}{_brief(row.field.size):>13}{_brief(row.field.stride):>8}"
            )
        return "\n".join(lines)


def layer_table(
    module: nn.Module,
    input_size: tuple[int, int] = IMAGE_SIZE,
    *,
    output: int | str | None = None,
    in_channels: int | None = None,
) -> LayerTable:
    """List the layers of a module with the receptive field behind each; see `receptive_field`.

    1x1 convolutions at stride 1 and operations on single positions are left out: they change no field.
    """
    with one_image(module, input_size, in_channels, output):
        traced = trace(module, input_size, in_channels=in_channels, output=output)
    rows = []
    for node in _dependent(traced.graph.nodes, traced.image):
        if changes_field(node):
            kernel, _, _, rate = window(node)
            steps = [read(node, node.args[0], axis, Span(0, 0, Fraction(1)))[0].step for axis in (-2, -1)]  # type: ignore[arg-type]
            field = _field(traced, node, None, image_level=True)
            stride = tuple(_plain(step) for step in steps)
            rows.append(LayerField(_name(traced, node), kernel, stride, rate, shape(node)[2:], field))
    last = _field(traced, traced.output, None, image_level=True)
    return LayerTable((*rows, LayerField("output", (), (), (), shape(traced.output)[2:], last)))


def _field(traced: Trace, output: fx.Node, position: tuple[int, int] | None, image_level: bool) -> ReceptiveField:
    rows, columns = shape(output)[-2:] if len(shape(output)) > 2 else (1, 1)
    check_position(position, rows, columns)
    row, column = position or (rows // 2, columns // 2)
    height = read_image(traced, output, -2, Span(row, row, Fraction(1)), image_level)
    width = read_image(traced, output, -1, Span(column, column, Fraction(1)), image_level)
    sizes = [_plain(axis.last - axis.first + 1) for axis in (height, width)]
    steps = [_plain(axis.step) for axis in (height, width)]
    offsets = [
        -math.inf if math.isinf(axis.first) else _plain(axis.first - at * step)
        for axis, at, step in zip((height, width), (row, column), steps, strict=True)
    ]
    return ReceptiveField((sizes[0], sizes[1]), (steps[0], steps[1]), (offsets[0], offsets[1]))


def read_image(traced: Trace, output: fx.Node, axis: int, span: Span, image_level: bool) -> Span:
    """Walk from `output` back to the image, and collect what each tensor on the way is asked for."""
    dependent = _dependent(traced.graph.nodes, traced.image)
    wanted = {output: span}
    for node in reversed(dependent):
        if node not in wanted or node is traced.image:
            continue
        for source in node.all_input_nodes:
            if source not in dependent:
                continue  # a parameter
            for part in read(node, source, axis, wanted[node]):
                if part.first <= part.last and (image_level or math.isfinite(part.last)):
                    wanted[source] = wanted[source].hull(part) if source in wanted else part
    if traced.image not in wanted:
        raise ValueError("the output does not depend on the image" + ("" if image_level else " but by its mean"))
    return wanted[traced.image]


def _dependent(nodes: Iterable[fx.Node], image: fx.Node) -> dict[fx.Node, None]:
    """The operations whose result depends on the image, in forward order."""
    found = {image: None}
    for node in nodes:
        if node.op == "call_function" and any(source in found for source in node.all_input_nodes):
            found[node] = None
    return found


def _name(traced: Trace, node: fx.Node) -> str:
    """A convolution is called as its weight in the module, another operation as in PyTorch."""
    if node.target is aten.convolution.default and node.args[1] in traced.names:
        return traced.names[node.args[1]].removesuffix(".weight")  # type: ignore[index]
    return str(node.target).split(".")[1].lstrip("_").removesuffix("_with_indices")


def _plain(value: Any) -> float:
    """A whole number as int, so that it prints as one."""
    if value is None:
        return math.inf
    return int(value) if not math.isinf(value) and value == int(value) else float(value)


def _brief(values: tuple[float, ...]) -> str:
    """One number for two equal ones, two as in 3x5, and nothing for none."""
    texts = [f"{value:.4g}" if value < 1 else f"{value:g}" for value in values]
    return "x".join(texts if len(set(texts)) > 1 else texts[:1])
