"""Ctrl-C and SIGTERM during a training: a wish to stop, granted when the state can be saved."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Stopped(Exception):
    """A signal asked the training to stop."""


class StopSwitch:
    """While it is entered, the first SIGINT or SIGTERM is noted instead of ending the process.

    A second one acts as usual, for those who cannot wait for the step to end. Outside the main thread, where
    Python allows no signal handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._usual: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGINT, signal.SIGTERM):
                self._usual[kind] = signal.signal(kind, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def check(self) -> None:
        """Raise Stopped if a signal came in."""
        if self.signal is not None:
            raise Stopped

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for kind, handler in self._usual.items():
            signal.signal(kind, handler)
        self._usual = {}
