"""The command line: deeplab-lesson train | evaluate | predict | export | tune-crf | models | scenes | ..."""

import os
import sys
from collections.abc import Callable, Sequence

import torch
import tyro

from deeplab_lesson.commands.benchmark import benchmark_command
from deeplab_lesson.commands.evaluate import evaluate_command
from deeplab_lesson.commands.export import export_command
from deeplab_lesson.commands.models import models_command, receptive_field_command
from deeplab_lesson.commands.predict import predict_command
from deeplab_lesson.commands.scenes import scenes_command
from deeplab_lesson.commands.train import train_command
from deeplab_lesson.commands.tune_crf import tune_crf_command
from deeplab_lesson.training.memory import DoesNotFit

COMMANDS: dict[str, Callable[..., None]] = {
    "evaluate": evaluate_command,
    "predict": predict_command,
    "export": export_command,
    "tune-crf": tune_crf_command,
    "benchmark": benchmark_command,
    "models": models_command,
    "receptive-field": receptive_field_command,
    "scenes": scenes_command,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it worked, 2 when the input was wrong, 130 when it was stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    code = 0
    try:
        if words[:1] == ["train"]:
            train_command(words[1:])
        elif words and words[0] in COMMANDS:
            tyro.cli(COMMANDS[words[0]], prog=f"deeplab-lesson {words[0]}", args=words[1:])
        else:
            code = 2 if words and words[0] not in ("-h", "--help") else 0
            print(_usage(), file=sys.stderr if code else sys.stdout)
        sys.stdout.flush()  # a reader that has gone is noticed here, not while Python ends
    except KeyboardInterrupt:
        print("deeplab-lesson: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has gone: nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        print(f"deeplab-lesson: {_one_line(error)}", file=sys.stderr)
        return 2
    return code


def _one_line(error: BaseException) -> str:
    """What went wrong, without the trace that a DataLoader puts before the message of its worker."""
    if isinstance(error, DoesNotFit):
        return str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return f"out of memory ({error}): take smaller batches, crops or pictures, or another device".replace("\n", " ")
    if isinstance(error, (FileExistsError, NotADirectoryError)) and error.filename:
        return f"{error.filename}: a file stands where a folder is needed; choose another name"
    text = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else str(error)
    if "Original Traceback" in text:
        text = text.rstrip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def _usage() -> str:
    rows = {"train": train_command, **COMMANDS}
    lines = [f"  {name:<17}{(function.__doc__ or '').splitlines()[0]}" for name, function in rows.items()]
    return "\n".join(["usage: deeplab-lesson COMMAND ... (COMMAND --help says more)", *lines])
