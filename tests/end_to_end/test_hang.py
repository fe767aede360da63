"""What takes a process of its own: a hang under the supervisor, a second SIGTERM, no children."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxgpt.training.metrics import read_records
from tests.tiny import REPOSITORY, environment, make_dataset, write_config

NUM_STEPS = 20


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hang")
    dataset = make_dataset(root / "data")
    config = write_config(root / "c.py", [(dataset, 1)], NUM_STEPS, save_every=4)
    patience = (
        "from jaxgpt.config import replace\n"
        "from jaxgpt.training.watchdog import WatchdogConfig\n"
        "config = replace(config, watchdog=WatchdogConfig(least_seconds=8.0))\n"
    )
    config.write_text(config.read_text() + patience)
    return {"root": root, "config": config}


def _command(world: dict[str, Path], run_dir: Path, faults: dict[int, str]) -> list[str]:
    plan = run_dir.with_name(f"{run_dir.name}-faults.json")
    plan.write_text(json.dumps({"faults": faults, "leave_out": []}))
    return [
        sys.executable, str(REPOSITORY / "tests" / "soak" / "faulty_run.py"),
        "--config", str(world["config"]), "--run-dir", str(run_dir), "--faults", str(plan),
    ]  # fmt: skip


def _environment(world: dict[str, Path]) -> dict[str, str]:
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return {**environment(world["root"] / "cache"), "PYTHONPATH": path}


def _wait_until_starved(process: subprocess.Popen, metrics: Path, last_step: int) -> None:
    """Returns when the trainer waits for the batch after `last_step`: no step can save any more.

    The loss of a step is written when the next has been dispatched; after that of `last_step - 1`
    the trainer asks for nothing but the batch that never comes.
    """
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        assert process.poll() is None, "the trainer ended before its loader hung"
        records = read_records(metrics)
        if any("loss" in record and record["step"] == last_step - 1 for record in records):
            time.sleep(0.5)  # From the written line to the wait are a few Python statements.
            return
        time.sleep(0.05)
    raise AssertionError(f"{metrics}: step {last_step - 1} is not there after 150 s")


@pytest.mark.slow
def test_a_hang_is_found_told_and_supervised_to_the_end(world: dict[str, Path]) -> None:
    run_dir = world["root"] / "hung"
    command = _command(world, run_dir, {9: "hang"})
    # Each process that the supervisor starts writes down when.
    starts = world["root"] / "starts"
    timed = ["sh", "-c", 'date +%s.%N >> "$0"; exec "$@"', str(starts)]
    supervise = [sys.executable, "-m", "jaxgpt.supervise", "--first-wait-seconds", "0.1", "--"]
    result = subprocess.run(
        [*supervise, *timed, *command],
        env=_environment(world),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "ended with exit code 75; restarting" in result.stderr
    assert "error: no progress for" in result.stderr
    (stacks,) = run_dir.glob("stacks-*.txt")
    assert "faulty_pick" in stacks.read_text(), "the loader's stack is missing"
    records = [r for r in read_records(run_dir / "metrics.jsonl") if "loss" in r]
    assert [record["step"] for record in records] == list(range(1, NUM_STEPS + 1))
    # Both processes and the time between them, by the clock from the start of the first.
    began, _ = map(float, starts.read_text().split())
    account = json.loads((run_dir / "goodput.json").read_text())
    total, wall = sum(account["seconds"].values()), account["until"] - began
    assert total == pytest.approx(wall, rel=0.01, abs=0.3)
    assert account["seconds"]["data_wait"] > 8
    for purpose in ("init", "compile", "restore", "step", "eval", "save"):
        assert account["seconds"][purpose] > 0, purpose
    assert "hung" in (run_dir / "report.html").read_text()


@pytest.mark.slow
def test_a_second_sigterm_stops_at_once_and_a_killed_trainer_leaves_nobody(
    world: dict[str, Path],
) -> None:
    run_dir = world["root"] / "twice"
    process = subprocess.Popen(
        _command(world, run_dir, {6: "hang"}),
        env=_environment(world),
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
    )
    _wait_until_starved(process, run_dir / "metrics.jsonl", last_step=6)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children == [], "processes that could outlive the trainer"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM
    again = subprocess.run(
        _command(world, run_dir, {}), env=_environment(world), cwd=REPOSITORY, timeout=300
    )
    assert again.returncode == 0
