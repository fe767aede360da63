"""Two supervised hosts: one is killed, both go on; bad batches: both decide alike."""

import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import open_run
from jaxgpt.training.metrics import read_records
from tests.tiny import make_dataset
from tests.two_hosts import TRAIN, Hosts, write_small_config

pytestmark = pytest.mark.slow
NUM_STEPS = 40
SUPERVISE = ("-m", "jaxgpt.supervise", "--first-wait-seconds", "0.2", "--", sys.executable, *TRAIN)
# As in test_faults.py: one bad batch of each kind, then a streak that makes the run go back.
BAD = {2: "nan", 12: "spike", 13: "nan_gradient", 17: "nan", 18: "nan", 19: "nan"}
FAULTY = (
    "-c",
    "import sys; from pathlib import Path; from tests.faults import Faults; "
    f"Faults({BAD}, Path('none')).install(); "
    "from jaxgpt.command_line import run_verb; from jaxgpt.train import main; run_verb(main)",
)
RECOVERY = (
    "--schedule.num-steps", "24", "--checkpoint.every-steps", "4", "--checkpoint.keep-latest", "3",
    "--recovery.window", "16", "--recovery.min-steps", "8", "--recovery.max-in-a-row", "3",
    "--recovery.max-in-window", "16", "--recovery.rewind-steps", "1",
    # Adam makes of a gradient near 0, whose last bits differ, an update of any sign.
    "--optimizer.eps", "1e-4",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("peers")
    config = write_small_config(root / "small.py", make_dataset(root / "data"))
    return {"root": root, "config": config, "cache": root / "cache"}


def params_of(run_dir: Path, step: int) -> list[np.ndarray]:
    params = open_run(run_dir).restore_params(step, single_device_mesh())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def events_of(run_dir: Path, *names: str) -> list[dict]:
    return [event for event in read_records(run_dir / "events.jsonl") if event["event"] in names]


def train(world: dict[str, Path], name: str, programs, *options: str, **hosts) -> Path:
    """Train on as many hosts as there are programs, to the end."""
    run_dir = world["root"] / name
    arguments = ["--config", str(world["config"]), "--run-dir", str(run_dir), *options]
    with Hosts(arguments, world["cache"], programs=programs, **hosts) as running:
        assert [code for code, _, _ in running.ends()] == [0] * len(programs)
    return run_dir


def test_a_killed_peer_costs_two_supervised_hosts_no_bit(world) -> None:
    options = ("--schedule.num-steps", str(NUM_STEPS), "--checkpoint.every-steps", "8")
    calm = train(world, "calm", (TRAIN, TRAIN), *options)
    run_dir = world["root"] / "stormy"
    arguments = ["--config", str(world["config"]), "--run-dir", str(run_dir), *options]
    with Hosts(arguments, world["cache"], programs=(SUPERVISE, SUPERVISE)) as hosts:
        while not (run_dir / "checkpoints" / "8").is_dir():
            assert all(process.poll() is None for process in hosts.processes), hosts.ends()
            time.sleep(0.002)
        _kill_child(hosts.processes[0].pid)
        ends = hosts.ends()
    assert [code for code, _, _ in ends] == [0, 0], ends
    for host, (_, _, errors) in enumerate(ends):
        assert "restarting in" in errors, f"host {host} was not started again: {errors}"
    assert 8 <= events_of(run_dir, "resume")[0]["step"] < NUM_STEPS
    for ours, theirs in zip(params_of(run_dir, NUM_STEPS), params_of(calm, NUM_STEPS), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_two_hosts_skip_and_go_back_as_one_does(world) -> None:
    one = train(world, "one", (FAULTY,), *RECOVERY, num_devices=8)
    two = train(world, "two", (FAULTY, FAULTY), *RECOVERY)
    decisions = ("skip", "rollback", "diverged", "finished")
    seen = [
        [(event["event"], event["step"], event.get("batch"), event.get("batches")) for event in run]
        for run in (events_of(one, *decisions), events_of(two, *decisions))
    ]
    assert seen[0] == seen[1]
    assert [name for name, *_ in seen[0]] == ["skip", "skip", "skip", "rollback", "finished"]
    for ours, theirs in zip(params_of(two, 24), params_of(one, 24), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def _kill_child(supervisor: int) -> None:
    (child,) = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
