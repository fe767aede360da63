"""Soak: fine-tuning runs of every objective, killed at random moments, end as calm ones do.

    python -m tests.soak.kills_while_tuning [--num-kills N] [--seed N] [--folder DIR]

A longer form of tests/end_to_end/test_killed_finetuning.py. Each kill comes at a random moment
between the start of `python -m jaxgpt.finetune` and the time that the calm run took: while examples
are read, a reference is computed, a program is compiled, a step is taken or saved. Some minutes;
exits with 1 if an array of the last step or a figure of the metrics differs.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.tiny import REPOSITORY, environment
from tests.tuned_runs import JOBS, Job, arguments, make_world, outcome

NUM_STEPS = 12


def main() -> int:
    """Compare a calm run and a killed one of each objective."""
    parser = argparse.ArgumentParser(description="Kills at random moments of fine-tuning")
    parser.add_argument("--num-kills", type=int, default=3, help="kills of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="kept; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        world = make_world(folder)
        rng = random.Random(options.seed)
        alike = [_compare(name, job, world, options.num_kills, rng) for name, job in JOBS.items()]
    print(f"{sum(alike)} of {len(alike)} objectives: the same bits after {options.num_kills} kills")
    return 0 if all(alike) else 1


def _compare(name: str, job: Job, world: Path, num_kills: int, rng: random.Random) -> bool:
    calm, killed = (world / f"{name} {word}" for word in ("calm", "killed"))
    began = time.monotonic()
    _finish(arguments(job, world, calm, NUM_STEPS), calm)
    seconds = time.monotonic() - began
    argv, moments = arguments(job, world, killed, NUM_STEPS), []
    while len(moments) < num_kills:
        process = _start(argv, killed)
        try:
            _check(process.wait(rng.uniform(0.1, 1) * seconds), killed)
            # It has ended, for its programs were compiled already: the run begins again.
            shutil.rmtree(killed)
            moments, seconds = [], 0.8 * seconds
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            moments.append(_last_step(killed))
    _finish(argv, killed)
    is_alike = outcome(killed, NUM_STEPS) == outcome(calm, NUM_STEPS)
    print(
        f"{name}: killed after steps {moments}, {'alike' if is_alike else 'DIFFERENT'}", flush=True
    )
    return is_alike


def _last_step(run_dir: Path) -> int | None:
    """Return the newest saved step; None: none was saved."""
    names = [path.name for path in (run_dir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=None)


def _start(argv: list[str], run_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jaxgpt.finetune", *argv]
    cache = run_dir.parent / "cache"
    with open(run_dir.with_suffix(".log"), "a") as errors:
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment(cache), stderr=errors)


def _finish(argv: list[str], run_dir: Path) -> None:
    _check(_start(argv, run_dir).wait(), run_dir)


def _check(code: int, run_dir: Path) -> None:
    if code != 0:
        raise SystemExit(f"{run_dir.name} ended with {code}; see {run_dir.with_suffix('.log')}")


if __name__ == "__main__":
    sys.exit(main())
