"""Two processes, as on two hosts, write one checkpoint; one process reads it."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.manager import Checkpoints
from tests.two_hosts import free_port

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("saving_process.py")


def test_two_processes_save_what_one_restores(tmp_path):
    command = [sys.executable, str(PROGRAM), f"127.0.0.1:{free_port()}"]
    processes = [
        subprocess.Popen(
            [*command, str(process), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        for process in processes:
            output, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors[-3000:]
            assert output.endswith("done\n")
    finally:
        for process in processes:
            process.kill()
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(), read_only=True)
    spec = jax.ShapeDtypeStruct((200_000,), np.uint32)
    params = checkpoints.restore_params(9, {"w": spec})
    expected = jax.random.bits(jax.random.key(0), (200_000,))
    np.testing.assert_array_equal(params["w"], expected)
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["9", "damaged-4"]
