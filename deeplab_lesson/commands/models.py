"""deeplab-lesson models, and deeplab-lesson receptive-field."""

import torch
from tyro.conf import Positional


def models_command(pattern: Positional[str] = "*", cost: bool = False, size: tuple[int, int] = (513, 513)) -> None:
    """List the models with their parameter counts at 21 classes.

    Args:
        pattern: a shell pattern such as 'deeplabv3plus_*'.
        cost: also multiply-adds and activation memory, and the papers' own counts.
        size: height and width of the image that --cost is for.
    """
    from deeplab_lesson.models.cost_table import cost_table, papers_table, parameter_table
    from deeplab_lesson.models.registry import list_models

    names = list_models(pattern)
    if not names:
        raise ValueError(f"no model matches {pattern!r}: there are {', '.join(list_models())}")
    print(f"{cost_table(names, size)}\n\n{papers_table()}" if cost else parameter_table(names))


def receptive_field_command(
    model: Positional[str], output_stride: int | None = None, size: tuple[int, int] = (256, 256)
) -> None:
    """Print the receptive field of a model, layer by layer.

    Args:
        model: one of those that 'deeplab-lesson models' lists.
        output_stride: 8, 16 or 32; the model's own unless given.
        size: height and width of the image, for the sizes of the maps.
    """
    from deeplab_lesson.models.registry import create_model
    from deeplab_lesson.receptive_field import layer_table

    with torch.device("meta"):
        network = create_model(model, output_stride=output_stride)
    print(layer_table(network, size))
