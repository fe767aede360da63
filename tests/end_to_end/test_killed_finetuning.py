"""A fine-tuning run of any objective that is killed and continued ends as the one left alone did.

Processes are forked from one that has imported JAX and not started it, which saves each of them
its imports; tests/soak/kills_while_tuning.py starts the command itself, and kills more often. The
list of `--durations` does not count them: 17 CPU seconds for each objective.
"""

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from jaxgpt.command_line import run_verb
from jaxgpt.finetune import main as finetune
from tests.tuned_runs import JOBS, arguments, make_world, outcome
from tests.xla_flags import with_devices

pytestmark = pytest.mark.slow
NUM_STEPS = 6
_PROCESSES = multiprocessing.get_context("forkserver")
# With what a run imports when it first needs it.
_PROCESSES.set_forkserver_preload(
    [__name__, "matplotlib.pyplot", "orbax.checkpoint", "tensorboardX.proto.event_pb2"]
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("killed"))


def _run(argv: list[str], errors: Path) -> None:
    os.environ["XLA_FLAGS"] = with_devices(1)  # JAX reads it when it starts.
    with open(errors, "a") as file:
        os.dup2(file.fileno(), 2)
    run_verb(finetune, argv)


def _start(argv: list[str], run_dir: Path) -> BaseProcess:
    process = _PROCESSES.Process(target=_run, args=(argv, run_dir.with_suffix(".log")))
    process.start()
    return process


def _finish(argv: list[str], run_dir: Path) -> None:
    process = _start(argv, run_dir)
    process.join(300)
    assert process.exitcode == 0, run_dir.with_suffix(".log").read_text()[-2000:]


@pytest.mark.parametrize("name", JOBS)
def test_a_killed_run_ends_with_the_same_bits(name: str, world: Path) -> None:
    rng = random.Random(name)
    calm, killed = (world / f"{name} {word}" for word in ("calm", "killed"))
    _finish(arguments(JOBS[name], world, calm, NUM_STEPS), calm)

    argv = arguments(JOBS[name], world, killed, NUM_STEPS)
    process, metrics = _start(argv, killed), killed / "metrics.jsonl"
    num_lines = rng.randint(2, 5)
    while process.is_alive() and (
        not metrics.exists() or metrics.read_bytes().count(b"\n") < num_lines
    ):
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.05))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, killed.with_suffix(".log").read_text()[-2000:]
    assert not (killed / "checkpoints" / str(NUM_STEPS)).exists()

    _finish(argv, killed)
    assert outcome(killed, NUM_STEPS) == outcome(calm, NUM_STEPS)
