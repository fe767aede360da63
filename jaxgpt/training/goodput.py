"""Goodput of a run: every second is booked to one purpose, across kills and restarts.

    init        from the start of the process to the first of the purposes below
    compile     the first call of the training step
    restore     making the state, or reading it from a checkpoint
    data_wait   waiting for a batch that is not there yet
    step        steps that bring the run forward
    replay      steps that had been done already, by an earlier process or before a rollback
    eval        evaluations and samples, with their compilation
    save        the time that the loop waits for a save
    report      writing the report
    down        between the last heartbeat of one process and the start of the next

Goodput is the share of `step` in all of them. The account is kept in `goodput.json` of the run
folder, which is rewritten every few seconds; time of a killed process after that counts as down.
"""

import json
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxgpt.storage.durable import write_json

GOODPUT_VERSION = 1
FILE_NAME = "goodput.json"
PURPOSES = (
    "init", "compile", "restore", "data_wait", "step", "replay", "eval", "save", "report", "down",
)  # fmt: skip
_REMEMBERED_STEPS = 101


class GoodputTracker:
    """Books each moment to the current purpose; one thread sets the purpose, others may read.

    Args:
        run_dir: folder of the account, of earlier processes and this one; None keeps none.
        began: `time.monotonic()` at which this process began.
    """

    def __init__(self, run_dir: Path | None = None, began: float | None = None) -> None:
        self._path = None if run_dir is None else run_dir / FILE_NAME
        self._lock = threading.Lock()
        now = time.monotonic()
        self._mark = now if began is None else began
        self._seconds: dict[str, float] = dict.fromkeys(PURPOSES, 0.0)
        self._purpose: str = "init"
        self._furthest = 0
        self._last_heartbeat = now
        self._steps_done = 0
        self._last_step: float | None = None
        self._durations: deque[float] = deque(maxlen=_REMEMBERED_STEPS)
        self._carry_on(time.time() - (now - self._mark))

    @property
    def purpose(self) -> str:
        """Return the purpose that time is being booked to."""
        return self._purpose

    @property
    def steps_done(self) -> int:
        """Return the newest step that this process has finished; 0 if none."""
        return self._steps_done

    @property
    def median_step_seconds(self) -> float:
        """Return the median time between the ends of the last steps; 0 before there are two."""
        return statistics.median(self._durations) if self._durations else 0.0

    def idle_seconds(self) -> float:
        """Return the time since the last progress: a step, a heartbeat, or another purpose."""
        return time.monotonic() - self._last_heartbeat

    def enter(self, purpose: str) -> None:
        """Book time to this purpose from now on."""
        with self._lock:
            self._book()
            self._purpose = purpose
            self._last_heartbeat = self._mark

    def enter_step(self, step: int) -> None:
        """Book time from now on to the step with this number, counted from 1."""
        self.enter("replay" if step <= self._furthest else "step")

    def finish_step(self, step: int) -> None:
        """Note the end of a step, whose loss the host has read."""
        now = time.monotonic()
        if self._last_step is not None:
            self._durations.append(now - self._last_step)
        self._last_step = self._last_heartbeat = now
        self._steps_done = step
        self._furthest = max(self._furthest, step)

    def heartbeat(self) -> None:
        """Note progress within the current purpose."""
        self._last_heartbeat = time.monotonic()

    def discard_next_duration(self) -> None:
        """Leave out the next duration, because something other than a step comes between."""
        self._last_step = None

    @contextmanager
    def spending(self, purpose: str) -> Iterator[None]:
        """Book time to this purpose within the context, and to the one before on exit."""
        before = self._purpose
        self.enter(purpose)
        try:
            yield
        finally:
            self.enter(before)

    def seconds(self) -> dict[str, float]:
        """Return seconds by purpose up to this moment, of all processes of the run."""
        with self._lock:
            self._book()
            return dict(self._seconds)

    def record(self) -> dict[str, Any]:
        """Return the account for a log: seconds by purpose, their sum, and the goodput."""
        seconds = self.seconds()
        total = sum(seconds.values())
        return {
            **{purpose: round(value, 3) for purpose, value in seconds.items()},
            "total": round(total, 3),
            "goodput": round(seconds["step"] / total, 4) if total else 0.0,
        }

    def write(self) -> None:
        """Write the account to disk. A failure is ignored: it costs the account, not the run."""
        if self._path is None:
            return
        document = {
            "version": GOODPUT_VERSION,
            "seconds": self.seconds(),
            "furthest_step": self._furthest,
            "until": time.time(),
        }
        try:
            write_json(self._path, document)
        except OSError:
            return

    @contextmanager
    def written(self) -> Iterator[None]:
        """Write the account at both ends of the context, however it ends. At the beginning as well,
        so that a process killed soon after has left its time.
        """
        self.write()
        try:
            yield
        finally:
            self.write()

    def _carry_on(self, began: float) -> None:
        """Load the account of earlier processes, the last of which was seen before `began`."""
        if self._path is None:
            return
        try:
            document = json.loads(self._path.read_text("utf-8"))
            if document["version"] != GOODPUT_VERSION:
                return
            self._seconds |= {name: float(document["seconds"][name]) for name in PURPOSES}
            self._furthest = int(document["furthest_step"])
            self._seconds["down"] += max(0.0, began - float(document["until"]))
        except (OSError, ValueError, KeyError, TypeError):
            return  # none yet, or not readable: the account begins here

    def _book(self) -> None:
        now = time.monotonic()
        self._seconds[self._purpose] += now - self._mark
        self._mark = now


def process_start() -> float:
    """Return `time.monotonic()` at the start of this process, to a hundredth of a second.

    Where the kernel does not tell (Linux does), return the moment of the call.
    """
    try:
        fields = Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return time.monotonic()
    return time.monotonic() - max(age, 0.0)
