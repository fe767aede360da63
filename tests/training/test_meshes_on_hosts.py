"""Two processes with four devices each train, on every family of mesh, what one device does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.parallel.mesh import single_device_mesh
from tests.tiny import REPOSITORY, environment
from tests.training.meshes_on_hosts import DENSE, EXPERTS, MESHES, NUM_STEPS, train
from tests.two_hosts import free_port

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("meshes_on_hosts.py")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Losses by mesh, of one launch for all of them."""
    variables = {
        **environment(tmp_path_factory.mktemp("cache"), 4),
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(PROGRAM), f"127.0.0.1:{free_port()}"]
    processes = [
        subprocess.Popen(
            [*command, str(host)],
            env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for host in range(2)
    ]  # fmt: skip
    try:
        (output, errors), _ = [process.communicate(timeout=800) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    return json.loads(output)


@pytest.fixture(scope="module")
def alone() -> dict[str, list[float]]:
    return {
        name: train(replace(config, layers=Scanned()), single_device_mesh())
        for name, config in {"dense": DENSE, "experts": EXPERTS}.items()
    }


@pytest.mark.parametrize("name", MESHES)
def test_two_hosts_train_what_one_device_does(name: str, together, alone) -> None:
    has_experts = MESHES[name][0].feed_forward == EXPERTS.feed_forward
    expected = alone["experts" if has_experts else "dense"]
    assert len(set(expected)) == NUM_STEPS
    np.testing.assert_allclose(together[name], expected, rtol=1e-5)
