"""Progress of a build: a bar on a terminal, a plain line every few seconds elsewhere. All output
goes to stderr. A build also notices here that it has been asked to stop.
"""

import sys
import time
from typing import Any

from jaxgpt.stop_signal import StopSignal

_SECONDS_BETWEEN_LINES = 5.0
STOPPED = "stopped; the work so far is kept: run the same command again to continue"


class BuildProgress:
    """Progress of one stage after the other; amounts are bytes."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop
        self._bar: Any = None
        self._task: Any = None
        self._title = ""
        self._total = 0
        self._done = 0
        self._started = self._last_line = 0.0

    def begin(self, title: str, total: int) -> None:
        """Begin a new stage."""
        self._title, self._total, self._done = title, total, 0
        self._started = self._last_line = time.monotonic()
        if sys.stderr.isatty():
            self._bar = _make_bar()
            self._task = self._bar.add_task(title, total=max(total, 1))
            self._bar.start()

    def advance(self, amount: int) -> None:
        """Add `amount` to the work done.

        Raises:
            InterruptedByUser, UnfinishedError: a signal has come.
        """
        if self._stop.received is not None:
            self.close()
            raise self._stop.error(STOPPED)
        self._done = min(self._done + amount, self._total)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
        elif (
            self._done < self._total and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES
        ):
            self._last_line = time.monotonic()
            self._print()

    def finish(self) -> None:
        """End a complete stage."""
        self._done = self._total
        if self._bar is not None:
            self._bar.update(self._task, completed=max(self._total, 1))
        else:
            self._print()
        self.close()

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self) -> None:
        seconds = time.monotonic() - self._started
        share = self._done / self._total if self._total else 1.0
        rate = self._done / max(seconds, 1e-9) / 1e6
        print(
            f"{self._title}: {share:4.0%} of {self._total / 1e6:.1f} MB, "
            f"{seconds:.0f} s, {rate:.1f} MB/s",
            file=sys.stderr,
            flush=True,
        )


def _make_bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
