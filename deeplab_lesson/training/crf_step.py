"""The fully connected CRF as a last step: its parameters by name, from a file or a search, and its application."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deeplab_lesson.crf import PRESETS, CRFParameters, mean_field
from deeplab_lesson.crf.parameters import read_parameters
from deeplab_lesson.data.files import write_atomically

CRFChoice = str | Path | Mapping[str, Any] | CRFParameters
"""A preset's name, a .json file, the parameters by name, or the parameters."""


def refine(probabilities: Tensor, pictures: Tensor, crf: CRFParameters) -> Tensor:
    """Sharpen probabilities at the edges of the picture.

    Args:
        probabilities: [N, C, H, W], a network's.
        pictures: [N, channels, H, W] in 0..255, not normalized.

    Returns:
        Marginals [N, C, H, W].

    Raises:
        ValueError: as in `mean_field`, for example penalties for another number of classes.
    """
    if crf.compatibility is not None:
        crf = replace(crf, compatibility=crf.compatibility.to(probabilities.device))
    return mean_field(as_logits(probabilities), pictures, **vars(crf))


def as_logits(probabilities: Tensor) -> Tensor:
    """Take the logarithm; a probability that was rounded to 0 counts as the smallest one that is not."""
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def read_crf(choice: CRFChoice) -> CRFParameters:
    """Return the parameters that a choice means.

    Args:
        choice: a preset's name ("deeplab_v2_resnet101"), a .json file as `write_crf` writes it, a mapping such as
            `PRESETS["deeplab_v1"]`, or CRFParameters, which come back as they are.

    Raises:
        FileNotFoundError: no such file.
        TypeError: a parameter that the CRF does not have, or one of the wrong type.
        ValueError: no such preset (the nearest one is offered), a file that holds no parameters, or values that
            CRFParameters refuses.
    """
    if isinstance(choice, CRFParameters):
        return choice
    if isinstance(choice, Mapping):
        return _checked(choice)
    if str(choice) in PRESETS:
        return _checked(PRESETS[str(choice)])
    path = Path(choice)
    if path.suffix.lower() != ".json":
        near = difflib.get_close_matches(str(choice), PRESETS, n=1, cutoff=0.5)
        guess = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"there are no CRF parameters {str(choice)!r}: {guess}allowed are {', '.join(PRESETS)}, and .json files "
            "such as `deeplab-lesson tune-crf` writes"
        )
    return _read_file(path)


def write_crf(path: str | Path, parameters: Mapping[str, Any], **record: Any) -> None:
    """Write parameters into a .json file that `read_crf` reads.

    Args:
        parameters: by their names in CRFParameters.
        record: JSON values that stand beside them, for people: how they were found.
    """
    content = {"parameters": plain(_checked(parameters)), **record}
    write_atomically(Path(path), (json.dumps(content, indent=1) + "\n").encode())


def plain(crf: CRFParameters) -> dict[str, Any]:
    """Return the parameters as JSON values."""
    values = {field.name: getattr(crf, field.name) for field in fields(crf)}
    if crf.compatibility is not None:
        values["compatibility"] = crf.compatibility.tolist()
    return values


def _read_file(path: Path) -> CRFParameters:
    form = 'allowed is {"parameters": {"appearance_weight": 4, ...}}, as `deeplab-lesson tune-crf` writes it'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} does not exist: check the name, or search the parameters with `deeplab-lesson tune-crf`"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file ({error}): {form}") from error
    values = content.get("parameters") if isinstance(content, dict) else None
    if not isinstance(values, dict) or not values:
        raise ValueError(f"{path} holds no CRF parameters: {form}")
    try:
        return _checked(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _checked(values: Mapping[str, Any]) -> CRFParameters:
    """Build the parameters; a file can hold values of any type."""
    numbers = {field.name for field in fields(CRFParameters) if field.type is float}
    for name, value in values.items():
        if name in numbers and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"{name} is {value!r}, a {type(value).__name__}: allowed are numbers")
    penalties = values.get("compatibility")
    if penalties is not None and not isinstance(penalties, Tensor):
        try:
            penalties = torch.tensor(penalties, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"compatibility is no table of numbers ({error}): allowed is a row of penalties for each class, "
                "[[0, 1], [1, 0]] for two"
            ) from error
        values = {**values, "compatibility": penalties}
    return read_parameters(values)
