"""Progress for a person: a line that is rewritten on a terminal, elsewhere one every few seconds.

Everything goes to stderr.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_BAR_WIDTH = 24


class ProgressLine:
    """Shows the progress of some work.

    Args:
        total: amount of work.
        seconds: time between two lines where there is no terminal.
        silent: show nothing, at a host that leaves talking to another.
    """

    def __init__(self, total: int, seconds: float, silent: bool = False) -> None:
        self._total = total
        self._silent = silent
        self._is_terminal = sys.stderr.isatty()
        self._interval = 0.2 if self._is_terminal else seconds
        self._last = 0.0
        self._first: tuple[float, int] | None = None

    def show(self, done: int, text: str) -> None:
        """Show `text` and the time left, unless the last line is younger than the interval."""
        now = time.monotonic()
        # From the first call on: what came before it, such as compilation, does not come again.
        self._first = self._first or (now, done)
        is_last = done == self._total
        if self._silent or (now - self._last < self._interval and not is_last):
            return
        self._last = now
        text += self._time_left(now, done)
        if self._is_terminal:
            filled = _BAR_WIDTH * done // max(self._total, 1)
            bar = "#" * filled + "." * (_BAR_WIDTH - filled)
            end = "\n" if is_last else ""
            print(f"\r[{bar}] {text}\x1b[K", end=end, file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a line of its own."""
        if self._silent:
            return
        start = "\r\x1b[K" if self._is_terminal else ""
        print(f"{start}{text}", file=sys.stderr, flush=True)

    def _time_left(self, now: float, done: int) -> str:
        assert self._first is not None
        began, before = self._first
        if done <= before or done >= self._total:
            return ""
        seconds = (now - began) / (done - before) * (self._total - done)
        return f", {format_duration(seconds)} left"


def track(items: Iterable[T], total: int, what: str, silent: bool = False) -> Iterator[T]:
    """Yield `items` and show how many of `total` are done."""
    line = ProgressLine(total, seconds=10.0, silent=silent)
    for number, item in enumerate(items):
        if number:
            line.show(number, f"{number}/{total} {what}")
        yield item


def format_count(number: int, noun: str) -> str:
    """Write a number with its noun: (1, "copy") -> "1 copy", (2000, "copy") -> "2,000 copies"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun[:-1]}ies" if noun.endswith("y") else f"{number:,} {noun}s"


def format_duration(seconds: float) -> str:
    """Write a time as a person says it: 4000 -> "1 h 7 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
