"""A data folder that changes while a training reads it: which file, and how the training goes on."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

from deeplab_lesson.training.checkpoint import STATE

T = TypeVar("T")


@contextmanager
def data_may_change(out: Path) -> Iterator[None]:
    """Let an error of reading say, beside the file, that the training in `out` can go on once the file is back.

    Raises:
        FileNotFoundError, PermissionError, ValueError: as reading raised it, from a worker too.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        kind = next(
            (kind for kind in (FileNotFoundError, PermissionError, OSError) if isinstance(error, kind)), ValueError
        )
        if (out / STATE).exists():
            fate = f"What {out} holds is whole: put the data right and go on with resume (--resume)"
        else:
            fate = "Nothing had been saved yet: put the data right and start again"
        raise kind(f"{_own_words(error)}. {fate}") from error


def reading(batches: Iterable[T], out: Path) -> Iterator[T]:
    """Yield batches; errors of reading them are those of `data_may_change`, errors of using them are not touched."""
    stream, end = iter(batches), object()
    while True:
        with data_may_change(out):
            batch = next(stream, end)
        if batch is end:
            return
        yield cast(T, batch)


def _own_words(error: Exception) -> str:
    """The message without the trace that a DataLoader puts before that of its worker."""
    text = str(error).rstrip()
    if "Original Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return text.rstrip(".")
