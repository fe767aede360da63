"""Runs on storage that rots or is full: they end as the undisturbed one, to the bit."""

import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxgpt.checkpoints import step_content, step_folders
from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.config import load_config, replace
from jaxgpt.errors import JaxgptError, MismatchError, NoCheckpointError, UnfinishedError
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.pretrain import train_run
from jaxgpt.runs.run import open_run
from jaxgpt.runtime.settings import RuntimeConfig
from jaxgpt.training.metrics import read_records
from tests.faults import Faults
from tests.tiny import make_dataset, write_config
from tests.two_hosts import Hosts

pytestmark = pytest.mark.slow

NUM_STEPS = 12


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    root = tmp_path_factory.mktemp("storage")
    dataset = make_dataset(root / "data")
    config = load_config(write_config(root / "c.py", [(dataset, 1)], NUM_STEPS, 3), TrainConfig)
    return replace(
        config,
        model=replace(config.model, num_layers=1),
        batch=replace(config.batch, global_batch_size=8, num_micro_batches=1),
        checkpoint=CheckpointConfig(every_steps=3, keep_latest=4),
        evaluation=replace(config.evaluation, every_steps=12, prompts=(), batch_size=8),
        runtime=RuntimeConfig(compile_cache=str(root / "cache")),
    )


@pytest.fixture(scope="module")
def calm(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("calm") / "run"
    train_run(config, run_dir, "auto", False)
    return run_dir


@pytest.fixture
def run_dir(calm: Path, tmp_path: Path) -> Path:
    return shutil.copytree(calm, tmp_path / "run")


def params_of(run_dir: Path) -> list[np.ndarray]:
    params = open_run(run_dir).restore_params(NUM_STEPS, single_device_mesh())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def assert_same_end(run_dir: Path, calm: Path) -> None:
    for ours, theirs in zip(params_of(run_dir), params_of(calm), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    records = read_records(run_dir / "metrics.jsonl")
    steps = [record["step"] for record in records if "loss" in record]
    assert steps == list(range(1, NUM_STEPS + 1))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def largest(folder: Path) -> Path:
    return max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )


def test_a_run_whose_newest_steps_have_rotted_goes_on_from_a_whole_one(
    config: TrainConfig, calm: Path, run_dir: Path
) -> None:
    for step in (9, 12):
        flip(largest(run_dir / "checkpoints" / str(step)))
    flip(run_dir / "config.json")  # a start writes it anew
    train_run(config, run_dir, "auto", False)
    assert_same_end(run_dir, calm)
    events = [
        (event["event"], event["step"], event.get("checkpoint"))
        for event in read_records(run_dir / "events.jsonl")
    ]
    for step in (9, 12):
        assert ("quarantine", 6, step) in events
        reason = json.loads((run_dir / f"checkpoints/damaged-{step}/damaged.json").read_text())
        assert "different content" in reason["reason"]


def test_a_run_of_which_nothing_is_whole_is_not_started_over(
    config: TrainConfig, run_dir: Path
) -> None:
    for folder in (run_dir / "checkpoints").iterdir():
        flip(largest(folder))
    for _ in range(2):
        with pytest.raises(
            NoCheckpointError, match=r"no whole checkpoint, only damaged-12.*reason"
        ):
            train_run(config, run_dir, "auto", False)


def test_a_rotten_lineage_is_named_as_such(config: TrainConfig, run_dir: Path) -> None:
    (run_dir / "lineage.json").write_text((run_dir / "lineage.json").read_text().replace("1", "2"))
    flip(largest(run_dir / "checkpoints" / "12"))
    with pytest.raises(MismatchError, match=r"lineage.json has different content"):
        train_run(config, run_dir, "auto", False)


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_and_nothing_else(
    config: TrainConfig, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = itertools.chain([0, 0], itertools.repeat(1 << 40))
    monkeypatch.setattr(
        step_content.shutil, "disk_usage", lambda path: SimpleNamespace(free=next(rooms))
    )
    commit = step_folders.commit

    def full_at_nine(directory: Path, step: int) -> None:
        if step == 9:
            raise OSError(28, "No space left on device")
        commit(directory, step)

    monkeypatch.setattr(step_folders, "commit", full_at_nine)
    one_more = replace(config, checkpoint=replace(config.checkpoint, max_failed_saves=4))
    train_run(one_more, tmp_path / "run", "auto", False)
    assert_same_end(tmp_path / "run", calm)
    events = read_records(tmp_path / "run" / "events.jsonl")
    failed = [event["checkpoint"] for event in events if event["event"] == "save_failed"]
    assert failed == [3, 6, 9]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["12"]


def test_a_run_that_could_not_save_its_end_does_not_call_itself_finished(
    config: TrainConfig, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        rooms = itertools.chain([1 << 40] * 3, itertools.repeat(0))
        patch.setattr(
            step_content.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(rooms))
        )
        with pytest.raises(JaxgptError, match=r"could not save step 12.*newest.*step 9") as error:
            train_run(config, tmp_path / "run", "auto", False)
    assert error.value.exit_code == 1
    train_run(config, tmp_path / "run", "auto", False)
    assert_same_end(tmp_path / "run", calm)


def test_a_stopped_run_that_could_not_save_says_so_and_not_that_it_is_saved(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(directory: Path, step: int) -> None:
        raise OSError(28, "No space left on device")

    Faults({4: "term"}, tmp_path / "done").install(monkeypatch.setattr)
    monkeypatch.setattr(step_folders, "commit", full)
    with pytest.raises(UnfinishedError, match=r"stopped by SIGTERM.*could not save") as error:
        train_run(config, tmp_path / "run", "auto", False)
    assert "which is saved" not in str(error.value)
    assert "No space left on device; the newest complete checkpoint is none" in str(error.value)


def test_two_hosts_go_on_from_what_one_has_saved_and_back(
    config: TrainConfig, calm: Path, run_dir: Path, tmp_path: Path
) -> None:
    """Eight devices here, then two hosts with four each, from step 6 on."""
    for step in (9, 12):
        shutil.rmtree(run_dir / "checkpoints" / str(step))
    file = tmp_path / "config.json"
    shutil.copy(run_dir / "config.json", file)
    arguments = ["--config", str(file), "--run-dir", str(run_dir)]
    with Hosts(arguments, tmp_path / "cache") as hosts:
        for code, _, errors in hosts.ends():
            assert code == 0, errors[-2000:]
    for ours, theirs in zip(params_of(run_dir), params_of(calm), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    shutil.rmtree(run_dir / "checkpoints" / "12")  # and back, from the step 9 of two hosts
    train_run(config, run_dir, "auto", False)
    for ours, theirs in zip(params_of(run_dir), params_of(calm), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
