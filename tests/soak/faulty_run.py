"""A training run with faults put into it: `faulty_run.py --config C --run-dir RUN --faults PLAN`.

PLAN is a JSON file {"faults": {batch: kind}, "leave_out": [batches]}; see tests/faults.py and the
kinds below. Everything else is `jaxgpt.train`.
"""

import json
import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxgpt import run_course
from jaxgpt.command_line import find_option, run_verb
from jaxgpt.config import load_config
from jaxgpt.experiment import TrainConfig
from jaxgpt.pretraining import train_run
from jaxgpt.training.time_account import process_start
from tests.faults import Faults

# More than the logs of a short run, less than the parameters.
_FULL_DISK_BYTES = 120_000
_FULL_DISK_SECONDS = 3.0


def main(argv: Sequence[str]) -> None:
    """Install the faults and train."""
    config, run_dir, path = (
        Path(find_option(argv, name) or "") for name in ("--config", "--run-dir", "--faults")
    )
    plan = json.loads(path.read_text())
    more = {
        "kill_soon": _kill_soon,
        "rot": lambda index: _rot(run_dir / "checkpoints", index),
        "disk": _fill_disk,
    }
    faults = Faults(
        {int(index): kind for index, kind in plan["faults"].items()},
        path.with_suffix(".done"),
        more,
    )
    faults.install()
    if plan["leave_out"]:
        run_course.open_training_batches = _leaving_out(plan["leave_out"])
    train_run(load_config(config, TrainConfig), run_dir, "auto", False, process_start())


def _kill_soon(index: int) -> None:
    """At a moment that no step chooses: in a save, an evaluation, a deletion."""
    delay = random.Random(index).uniform(0, 1.5)
    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()


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
    inner = run_course.open_training_batches

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
