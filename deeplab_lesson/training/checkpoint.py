"""Saving and loading: a model file that anyone can use, and a state file for going on with a training.

A model file is one safetensors file: the weights, and in its header the JSON that describes them. Nothing in
it is ever executed. Files are written under a temporary name, forced to the disk and renamed, so that at every
moment either the old file or the new one is whole.
"""

import io
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from deeplab_lesson import __version__
from deeplab_lesson.data.files import write_atomically
from deeplab_lesson.models.base import SegmentationModel, weight_differences
from deeplab_lesson.models.registry import create_model

BEST, LAST, STATE = "best.safetensors", "last.safetensors", "resume.pt"


def save_checkpoint(path: str | Path, model: SegmentationModel, metadata: dict[str, Any]) -> None:
    """Write a model and what is needed to use it.

    Args:
        metadata: JSON values; the model's own `spec` is added under "model".
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    text = json.dumps({**metadata, "model": model.spec})
    write_atomically(Path(path), safetensors.torch.save(tensors, {"deeplab_lesson": text}))


def find_checkpoint(path: str | Path) -> Path:
    """Return the file that `path` means: itself, or the best (else last) checkpoint of a run's folder."""
    path = Path(path)
    if path.is_dir():
        for name in (BEST, LAST):
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"{path} holds neither {BEST} nor {LAST}: give a run's folder or a .safetensors file")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a run's folder or a .safetensors file")
    return path


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read the description in a checkpoint's header, without its weights."""
    path = find_checkpoint(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["deeplab_lesson"])
        if not isinstance(metadata, dict) or not isinstance(metadata.get("model"), dict):
            raise ValueError("its description names no model")
    except PermissionError:
        raise PermissionError(f"{path} may not be read by you: change its permissions, or copy it") from None
    except KeyError:
        raise ValueError(
            f"{path} holds weights without this package's description: it was written by another program; allowed "
            "are the .safetensors files that `deeplab-lesson train` writes"
        ) from None
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} is no checkpoint of this package ({error}): it is damaged, or was written by another "
            "program; allowed are the .safetensors files that `deeplab-lesson train` writes"
        ) from error
    return metadata


def load_checkpoint(
    path: str | Path, *, num_classes: int | None = None, device: str = "cpu"
) -> tuple[SegmentationModel, dict[str, Any]]:
    """Rebuild a model from its file, in eval mode.

    Args:
        path: a .safetensors file or a run's folder (its best checkpoint).
        num_classes: refuse a model with another number of classes.

    Returns:
        The model and its metadata: classes, palette, normalization, config, metrics, versions.

    Raises:
        FileNotFoundError: no such file, or a folder without a checkpoint.
        ValueError: a damaged file, one of another program, or another number of classes.
    """
    path = find_checkpoint(path)
    metadata = read_metadata(path)
    spec = {**metadata["model"], "pretrained_backbone": False, "weights": None}  # nothing is downloaded
    name, found = str(spec.pop("name", None)), spec.get("num_classes")
    if num_classes is not None and found != num_classes:
        raise ValueError(
            f"{path} holds a {name} for {found} classes, and {num_classes} are asked for: take a checkpoint "
            "trained on the same classes, or train one on these"
        )
    try:
        model = create_model(name, **spec)
    except (ValueError, TypeError) as error:
        written = metadata.get("versions")
        writer = written.get("deeplab_lesson", "another version") if isinstance(written, dict) else "another version"
        raise ValueError(
            f"{path} describes the model {metadata['model']}, which cannot be built ({error}): it is damaged, or was "
            f"written by a version of this package that is newer or older (deeplab_lesson {writer}; this is "
            f"{__version__}); use that version, or train the model anew"
        ) from error
    load_weights(model, path)
    return model.eval().to(device), metadata


def load_weights(model: SegmentationModel, path: str | Path) -> None:
    """Put a checkpoint's weights into a model that has the same parameters.

    Raises:
        ValueError: the file is of another model or class count; the first differences are named.
    """
    path = find_checkpoint(path)
    try:
        tensors = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): copy it anew, or take the other checkpoint of the run"
        ) from error
    lines = weight_differences(model.state_dict(), tensors)
    if lines:
        held = read_metadata(path)["model"]
        raise ValueError(
            f"{path} holds the weights of another model: {held}, where the model is {model.spec}. "
            f"It has {'; '.join(lines[:4])}{'; ...' if len(lines) > 4 else ''}. "
            "Use load_checkpoint(path), which builds the right model, or train this one"
        )
    model.load_state_dict(tensors)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training's state: tensors, numbers, strings, lists and dicts only."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Read a training's state; refuses anything that would run code (torch's weights_only)."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: there is no training to go on with; start without resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises many kinds: zip, pickle, runtime, end of file
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}): it is damaged or holds more than numbers; "
            f"start again without resume from a new folder; the weights may still be whole in {path.parent / LAST}"
        ) from error
    if not isinstance(state, dict) or not {"step", "settings"} <= state.keys():
        raise ValueError(f"{path} is no training state of this package: give the folder of a run")
    return state
