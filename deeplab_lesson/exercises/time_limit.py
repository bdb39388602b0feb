"""Runs what a reader wrote so that it cannot hang, flood or end the notebook."""

import contextlib
import ctypes
import io
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
SECONDS = 10.0
GRACE = 2.0  # seconds in which a function that is told to stop may do so
KEPT_CHARACTERS = 20_000


class OutOfTime(Exception):
    """The work did not end in time. `stopped` is False where it still runs."""

    def __init__(self, stopped: bool) -> None:
        super().__init__()
        self.stopped = stopped


class Stop(BaseException):
    """Raised inside work that ran out of time."""


class Printed(io.StringIO):
    """Keeps what was printed, up to a limit: a loop that prints must not fill the memory."""

    def write(self, text: str) -> int:
        if self.tell() < KEPT_CHARACTERS:
            super().write(text[:KEPT_CHARACTERS])
        return len(text)


def run_within(seconds: float, work: Callable[[Printed], T]) -> T:
    """Call `work` in a thread of its own, wait for it, and stop it if it takes too long.

    What it prints goes into the `Printed` that it is called with, not onto the page. Signals would reach only the
    main thread of a Unix process; a thread needs nothing of the system, only CPython. Tested on Linux.

    Its limits: one long call into C (sleep, a large matrix product), or a loop that catches everything and mostly
    sleeps, cannot be stopped, and is left behind running. A call that also keeps Python's lock (10 ** 10 ** 9, a sum
    over an endless iterator) cannot even be noticed: only the notebook's own restart ends it. A crash of the
    process is a crash. While a call that was told to stop goes on in C, Python 3.11 holds up every thread that a
    debugger or a coverage tool traces.

    Raises:
        OutOfTime: after `seconds`.
    """
    _set_up_tracing()
    returned: list[T] = []
    raised: list[BaseException] = []
    done = threading.Event()
    printed = Printed()

    def run() -> None:
        sys.settrace(None)  # stopped inside the lock of a coverage tool's tracer, the thread would keep it for ever
        try:
            returned.append(work(printed))
        except BaseException as error:
            raised.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, daemon=True)  # daemon: what cannot be stopped does not keep Python alive
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        thread.start()
        try:
            in_time = _wait(done, seconds)
        except BaseException:  # the reader interrupts the cell
            _stop(thread, done)
            raise
        stopped = in_time or _stop(thread, done)
    if not in_time:
        raise OutOfTime(stopped)
    if raised:
        raise raised[0]
    return returned[0]


def _set_up_tracing() -> None:
    """Let PyTorch set in this thread, which lives on, what torch.fx would else set in the thread that ends.

    A second tracing, in any thread, then crashes the process: seen with torch 2.11, a build for CUDA without a GPU.
    """
    set_guard = getattr(torch._C, "_ensureCUDADeviceGuardSet", None)
    if set_guard is not None:
        set_guard()


def _wait(done: threading.Event, seconds: float) -> bool:
    """Wait in short steps, between which Windows lets an interrupt through."""
    end = time.monotonic() + seconds
    while not done.wait(0.05):
        if time.monotonic() > end:
            return False
    return True


def _stop(thread: threading.Thread, done: threading.Event) -> bool:
    """Raise `Stop` in the thread, again and again: work with a bare `except` catches the first ones."""
    end = time.monotonic() + GRACE
    while not done.wait(0.01) and time.monotonic() < end:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stop))
    return done.is_set()
