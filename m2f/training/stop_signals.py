"""Ctrl-C and a scheduler's SIGTERM end a run after the step under way, so that it can be saved."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

# A launcher of several processes passes on the Ctrl-C that they got from the terminal too.
_ECHO_SECONDS = 1.0


class StopSignals:
    """Inside a `with` block, the first SIGINT or SIGTERM is only noted; a SIGINT a second later or more raises
    KeyboardInterrupt.

    Args:
        announce: called with a line for the person at the terminal, once.
    """

    def __init__(self, announce: Callable[[str], None]):
        self.received: int = 0
        self._announce = announce
        self._received_at = 0.0
        self._former: dict[int, Callable[[int, FrameType | None], Any] | int] = {}

    def __enter__(self) -> "StopSignals":
        # Python lets only the main thread set handlers; elsewhere the program's own ones stay.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                former = signal.getsignal(number)
                if former is not None:  # that of a program around Python stays: it could not be put back
                    self._former[number] = former
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame):
        if self.received:
            if number == signal.SIGINT and time.monotonic() - self._received_at >= _ECHO_SECONDS:
                raise KeyboardInterrupt
            return
        self.received, self._received_at = number, time.monotonic()
        self._announce(
            f"{signal.Signals(number).name}: stopping after this step and saving a checkpoint; Ctrl-C again stops at "
            "once, without"
        )
