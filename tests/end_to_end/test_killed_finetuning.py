"""A fine-tuning run of any objective that is killed and continued ends as the one left alone did.

Processes are forked from one that has imported JAX and not started it, which saves each of them
its imports; tests/soak/kills_while_tuning.py starts the command itself, and kills more often. The
list of `--durations` does not count them: 17 CPU seconds for each objective.
"""

import itertools
import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from jaxgpt.command_line import run_verb
from jaxgpt.finetune import main as finetune
from jaxgpt.training.metrics import MetricsLog
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


def _die_after(num_records: int) -> None:
    """Let this process kill itself once it has written a number of metrics."""
    append, records = MetricsLog._append, itertools.count(1)

    def append_and_die(self: MetricsLog, name: str, record: dict[str, Any]) -> None:
        append(self, name, record)
        if name == "metrics" and next(records) == num_records:
            os.kill(os.getpid(), signal.SIGKILL)

    MetricsLog._append = append_and_die


def _run(argv: list[str], errors: Path, num_records: int | None) -> None:
    if num_records is not None:
        _die_after(num_records)
    os.environ["XLA_FLAGS"] = with_devices(1)  # JAX reads it when it starts.
    with open(errors, "a") as file:
        os.dup2(file.fileno(), 2)
    run_verb(finetune, argv)


def _finish(argv: list[str], run_dir: Path, num_records: int | None = None) -> None:
    """Run until the end, or until a number of metrics is written."""
    errors = run_dir.with_suffix(".log")
    process = _PROCESSES.Process(target=_run, args=(argv, errors, num_records))
    process.start()
    process.join(300)
    expected = 0 if num_records is None else -signal.SIGKILL
    assert process.exitcode == expected, errors.read_text()[-2000:]


@pytest.mark.parametrize("name", JOBS)
def test_a_killed_run_ends_with_the_same_bits(name: str, world: Path) -> None:
    rng = random.Random(name)
    calm, killed = (world / f"{name} {word}" for word in ("calm", "killed"))
    _finish(arguments(JOBS[name], world, calm, NUM_STEPS), calm)

    argv = arguments(JOBS[name], world, killed, NUM_STEPS)
    _finish(argv, killed, rng.randint(2, 5))
    assert not (killed / "checkpoints" / str(NUM_STEPS)).exists()

    _finish(argv, killed)
    assert outcome(killed, NUM_STEPS) == outcome(calm, NUM_STEPS)
