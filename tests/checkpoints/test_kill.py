"""SIGKILL at any moment of saving: what is found afterwards is whole, and new work goes on."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.manager import Checkpoints
from tests.checkpoints.saving_loop import SIZE

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("saving_loop.py")


def newest_content(directory):
    """The newest step, and the set of all values that its arrays hold."""
    checkpoints = Checkpoints(directory, CheckpointConfig(), read_only=True)
    step = checkpoints.latest()
    assert checkpoints.latest_verified() == step
    spec = lambda *shape, dtype: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
    params, state, metadata = checkpoints.restore(
        step,
        {"w": spec(SIZE, dtype=np.float32)},
        {"m": spec(SIZE, dtype=np.int32), "step": spec(dtype=np.int32)},
    )
    checkpoints.close()
    arrays = [params["w"], state["m"], state["step"], metadata["step"]]
    return step, {int(value) for array in arrays for value in np.unique(array)}


def kill_after(directory, seconds, saved=False):
    """Kill the program so long after its start, or not before it has `saved` something."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(directory)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(seconds)
        deadline = time.monotonic() + 60
        while saved and not any(path.name.isdigit() for path in directory.iterdir()):
            assert time.monotonic() < deadline, "nothing is saved in a minute"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()


def check_rounds(directory, rounds, seed=3):
    moments, newest = random.Random(seed), 0
    kill_after(directory, 1.0, saved=True)
    for _ in range(rounds):
        step, values = newest_content(directory)
        assert values == {step}
        assert step >= newest
        newest = step
        kill_after(directory, moments.uniform(0, 0.5))
    Checkpoints(directory, CheckpointConfig()).close()
    assert all(path.name.isdigit() for path in directory.iterdir())


def test_after_a_kill_the_newest_step_is_whole(tmp_path):
    check_rounds(tmp_path, 3)


@pytest.mark.parametrize(
    "place", ["before the hashes", "before the manifest", "before the rename", "in a deletion"]
)
def test_after_a_kill_at_any_stage_of_a_save_the_newest_step_is_whole(tmp_path, place):
    process = subprocess.run([sys.executable, str(PROGRAM), str(tmp_path), place], timeout=120)
    assert process.returncode == -signal.SIGKILL
    step, values = newest_content(tmp_path)
    assert (step, values) == (3, {3})
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    assert checkpoints.latest_verified() == step
    assert len(checkpoints.steps()) == 2
    checkpoints.close()
    assert all(path.name.isdigit() for path in tmp_path.iterdir())
