"""Ctrl-C and SIGTERM: the first asks the work to be saved and to stop, the second stops at once.

What "saved" means is up to the work, which asks `received` at moments when it can stop.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from jaxgpt.errors import InterruptedByUser, JaxgptError, UnfinishedError

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


class StopSignal:
    """A context in which the two signals are remembered instead of ending the process.

    Outside the main thread, where Python handles no signals, nothing is ever received.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def agree(self) -> None:
        """Agree on a stop before each step, where several processes must stop together."""

    def error(self, message: str) -> JaxgptError:
        """Return the error that ends the command with its exit code."""
        if self.received == signal.SIGINT:
            return InterruptedByUser(message)
        return UnfinishedError(message)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            # Not sys.exit: whatever is being waited for must not delay the second signal.
            os._exit(128 + number)
        self.received = signal.Signals(number)
        # Not print: the handler may run in the middle of one.
        os.write(2, b"\nstopping when the work is saved; once more stops at once\n")


def signal_at_parent_death(number: signal.Signals) -> Callable[[], None]:
    """Return a function that a child calls to get a signal when its parent ends.

    The kernel sends it, on Linux; elsewhere the function does nothing. It may be called between
    fork and exec.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    return lambda: None if prctl is None else prctl(_SET_DEATH_SIGNAL, number)
