"""A thread that ends a process which makes no progress, and says where it hangs.

It reads the run's `GoodputTracker`: the current purpose, its start, and the time of steps.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from jaxgpt.config import configclass
from jaxgpt.errors import UnfinishedError
from jaxgpt.training.goodput import GoodputTracker
from jaxgpt.training.metrics import record_line

_WRITE_SECONDS = 5.0
_TICK_SECONDS = 1.0
_STEP_PURPOSES = ("step", "replay", "data_wait")


@configclass
class WatchdogConfig:
    """Limits after which a run counts as hung and ends with exit code 75."""

    medians: float = 10.0
    """Longest time of a step, as a multiple of the median time of the steps before it."""
    least_seconds: float = 300.0
    """Least time before a step counts as hung, in seconds, including the wait for data."""
    slow_seconds: float = 1800.0
    """Longest time of one compilation, restore, evaluation or save, in seconds."""

    def __post_init__(self) -> None:
        for name in ("medians", "least_seconds", "slow_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")

    def allowed_seconds(self, purpose: str, median_step_seconds: float) -> float:
        """Return how long a purpose may last without progress."""
        least = max(self.least_seconds, self.medians * median_step_seconds)
        return least if purpose in _STEP_PURPOSES else max(least, self.slow_seconds)


class Watchdog:
    """Watch the run within the context, and write the goodput account every few seconds.

    Args:
        config: limits.
        goodput: of the run.
        run_dir: folder that the stacks of all threads go to, as well as to stderr.
        leave: ends the process; another function only in tests.
    """

    def __init__(
        self,
        config: WatchdogConfig,
        goodput: GoodputTracker,
        run_dir: Path,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._config = config
        self._goodput = goodput
        self._run_dir = run_dir
        self._leave = leave
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="jaxgpt-watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        tick = min(_TICK_SECONDS, self._config.least_seconds / 10)
        written = time.monotonic()
        while not self._done.wait(tick):
            purpose, idle = self._goodput.purpose, self._goodput.idle_seconds()
            allowed = self._config.allowed_seconds(purpose, self._goodput.median_step_seconds)
            if idle > allowed:
                self._give_up(purpose, idle, allowed)
                return
            if time.monotonic() - written > _WRITE_SECONDS:
                self._goodput.write()
                written = time.monotonic()

    def _give_up(self, purpose: str, idle: float, allowed: float) -> None:
        message = (
            f"error: no progress for {idle:.0f} s ({purpose}; allowed {allowed:.0f} s); the stacks "
            f"of all threads are above and in {self._run_dir}. Run the same command again to "
            "continue from the newest checkpoint\n"
        )
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        os.write(2, message.encode())
        # In a thread of its own: the disk may be what hangs.
        writer = threading.Thread(target=self._write_down, args=(purpose, idle), daemon=True)
        writer.start()
        writer.join(_WRITE_SECONDS)
        self._leave(UnfinishedError.exit_code)

    def _write_down(self, purpose: str, idle: float) -> None:
        self._goodput.write()
        name = time.strftime(f"stacks-%Y%m%d-%H%M%S-{os.getpid()}.txt", time.gmtime())
        with open(self._run_dir / name, "w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        event = {
            "event": "hang",
            "step": self._goodput.steps_done,
            "purpose": purpose,
            "seconds": round(idle, 1),
            "stacks": name,
        }
        with open(self._run_dir / "events.jsonl", "a", encoding="utf-8") as file:
            file.write(record_line(event))
