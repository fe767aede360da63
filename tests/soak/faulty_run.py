"""`jaxgpt.train` with faults put into it: `faulty_run.py --faults PLAN --config C --run-dir RUN`.

PLAN is a JSON file {"faults": {batch: kind}, "leave_out": [batches], "peer": PLAN of the other host
or null}; see tests/faults.py and the kinds below. All other options are those of `jaxgpt.train`.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxgpt import train
from jaxgpt.command_line import find_option, run_verb
from jaxgpt.runs import config
from tests.faults import Faults

# More than the logs of a short run, less than what a host saves of the state.
_FULL_DISK_BYTES = 120_000
_FULL_DISK_SECONDS = 3.0
# Shorter than a heartbeat of 6 s, and longer: the one is a pause, the other a loss.
_STOP_SECONDS = (2.0, 14.0)


def main(argv: Sequence[str]) -> None:
    """Install the faults and train."""
    path, run_dir = (Path(find_option(argv, name) or "") for name in ("--faults", "--run-dir"))
    plan = json.loads(path.read_text())
    _pid_file(path).write_text(str(os.getpid()))
    peer = _pid_file(Path(plan.get("peer") or path))
    more = {
        "kill_soon": _kill_soon,
        "rot": lambda index: _rot(run_dir / "checkpoints", index),
        "disk": _fill_disk,
        "peer": lambda index: os.kill(int(peer.read_text()), signal.SIGKILL),
        "stop": lambda index: _stop(int(peer.read_text()), index),
    }
    faults = Faults(
        {int(index): kind for index, kind in plan["faults"].items()},
        path.with_suffix(".done"),
        more,
    )
    faults.install()
    if plan["leave_out"]:
        config.open_training_batches = _leaving_out(plan["leave_out"])
    place = list(argv).index("--faults")
    train.main([*argv[:place], *argv[place + 2 :]])


def _pid_file(plan: Path) -> Path:
    """Where a host says which process it is: whoever reads a batch has met its peer before."""
    return plan.with_suffix(".pid")


def _kill_soon(index: int) -> None:
    """At a moment that no step chooses: in a save, an evaluation, a deletion."""
    delay = random.Random(index).uniform(0, 1.5)
    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()


def _stop(process: int, index: int) -> None:
    """Stop a process; somebody who outlives both hosts lets it go on after some seconds."""
    seconds = random.Random(index).uniform(*_STOP_SECONDS)
    wake = f"sleep {seconds:.1f}; kill -CONT {process}"
    subprocess.Popen(["sh", "-c", wake], start_new_session=True, stderr=subprocess.DEVNULL)
    os.kill(process, signal.SIGSTOP)


def _rot(checkpoints: Path, index: int) -> None:
    """Flip one bit in the newest checkpoint, then die."""
    steps = [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()]
    if len(steps) > 1:
        files = [path for path in (checkpoints / str(max(steps))).rglob("*") if path.is_file()]
        victim = random.Random(index).choice(sorted(path for path in files if path.stat().st_size))
        content = bytearray(victim.read_bytes())
        place = random.Random(index).randrange(8 * len(content))
        content[place // 8] ^= 1 << place % 8
        victim.write_bytes(content)
    os.kill(os.getpid(), signal.SIGKILL)


def _fill_disk(index: int) -> None:
    """For some seconds no file can grow beyond a size that a checkpoint needs."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FULL_DISK_BYTES, hard))
    again = threading.Timer(
        _FULL_DISK_SECONDS, resource.setrlimit, (resource.RLIMIT_FSIZE, (hard, hard))
    )
    again.daemon = True
    again.start()


def _leaving_out(bad: Sequence[int]) -> Any:
    """Batches as if the bad ones had never been: the k-th is the k-th good one."""
    inner = config.open_training_batches

    def open_batches(*arguments: Any) -> Any:
        batches = inner(*arguments)
        pick = batches.pick

        def pick_good(step: int, rows: Sequence[int]) -> Any:
            for index in sorted(bad):
                step += step >= index
            return pick(step, rows)

        batches.pick = pick_good  # type: ignore[method-assign]
        return batches

    return open_batches


if __name__ == "__main__":
    run_verb(main, sys.argv[1:])
