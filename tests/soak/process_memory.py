"""Memory of a process and of all below it, sampled while it runs."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SECONDS_BETWEEN_SAMPLES = 0.5


class Sample(NamedTuple):
    """One moment.

    Attributes:
        seconds: since the first sample.
        stage: what `stage_of` said then.
        resident_bytes: of each process by its id; pages of mapped files count, whoever else has
            them, too.
        private_bytes: of each process; what it has for itself alone, files not counted.
        total_bytes: of all processes, pages that several have counted once.
        processor_seconds: used so far by the processes that are there.
    """

    seconds: float
    stage: str
    resident_bytes: dict[int, int]
    private_bytes: dict[int, int]
    total_bytes: int
    processor_seconds: float


class MemoryWatch(threading.Thread):
    """Samples the tree of processes below (and with) `root` until it ends or `stop` is called.

    Attributes:
        samples: all that were taken, in order.
    """

    def __init__(self, root: int, stage_of: Callable[[], str]) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self._root = root
        self._stage_of = stage_of
        self._stopped = threading.Event()

    def run(self) -> None:
        start = time.monotonic()
        while not self._stopped.wait(SECONDS_BETWEEN_SAMPLES):
            resident, private, total, used = {}, {}, 0, 0.0
            for process in tree_of(self._root):
                sizes = _sizes(process)
                if sizes is not None:
                    resident[process], private[process] = sizes["Rss"], sizes["Pss_Anon"]
                    total += sizes["Pss"]
                    used += _processor_seconds(process)
            seconds = time.monotonic() - start
            sample = Sample(seconds, self._stage_of(), resident, private, total, used)
            self.samples.append(sample)

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def tree_of(root: int) -> list[int]:
    """The ids of `root` and of all processes that come from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name of the program, in brackets, may hold anything.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, new = [], [root]
    while new:
        found += new
        new = [child for process in new for child in children.get(process, [])]
    return found


def _processor_seconds(process: int) -> float:
    """What a process itself has used, 0 if it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    # utime and stime of proc(5), where the state comes third.
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _sizes(process: int) -> dict[str, int] | None:
    """Sums over the memory map of a process, in bytes; None if it is gone."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    except (OSError, ProcessLookupError):
        return None
    # The last second of a process: it is there, and has no memory.
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines} or None
