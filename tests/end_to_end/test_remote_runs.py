"""Runs that live at a URL: interrupted, moved to an empty machine, and read from there."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt import eval as evaluation
from jaxgpt import generate, verify
from jaxgpt.checkpoints.remote.verification import verify_remote_run
from jaxgpt.command_line import run_verb
from jaxgpt.config import load_config, replace
from jaxgpt.errors import UnfinishedError, UsageError
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.pretrain import train_run
from jaxgpt.runs.remote import local_folder
from jaxgpt.runs.run import open_run
from jaxgpt.runtime.settings import RuntimeConfig
from jaxgpt.storage import remote_folder, writer_lease
from jaxgpt.training.metrics import read_records
from tests import stores
from tests.faults import Faults
from tests.tiny import REPOSITORY, environment, make_dataset, write_config
from tests.tiny import run_verb as run_in_process
from tests.two_hosts import Hosts, write_small_config

pytestmark = pytest.mark.slow

NUM_STEPS = 12


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    root = tmp_path_factory.mktemp("remote")
    dataset = make_dataset(root / "data")
    config = load_config(write_config(root / "c.py", [(dataset, 1)], NUM_STEPS, 3), TrainConfig)
    return replace(
        config,
        model=replace(config.model, num_layers=1),
        batch=replace(config.batch, global_batch_size=8, num_micro_batches=1),
        evaluation=replace(config.evaluation, every_steps=6, prompts=(), batch_size=8),
        runtime=RuntimeConfig(compile_cache=str(root / "cache")),
    )


@pytest.fixture(scope="module")
def calm(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("calm") / "run"
    train_run(config, run_dir, "auto", False)
    return run_dir


@pytest.fixture(autouse=True)
def work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("JAXGPT_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setattr(remote_folder, "WAITS_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(writer_lease, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(writer_lease, "LEASE_SECONDS", 0.0)
    stores.empty()
    yield tmp_path / "work"
    stores.empty()


def train(config: TrainConfig) -> Path:
    run_dir, url = local_folder(stores.URL)
    train_run(config, run_dir, "auto", False, url=url)
    return run_dir


def params_of(run: str | Path) -> list[np.ndarray]:
    params = open_run(run).restore_params(NUM_STEPS, single_device_mesh())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def assert_same_end(run: str | Path, calm: Path) -> None:
    for ours, theirs in zip(params_of(run), params_of(calm), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def metrics_of(run_dir: Path) -> list[tuple[int, float]]:
    """Losses and evaluations; what depends on the time is left out."""
    return [
        (record["step"], record["eval"]["loss"] if "eval" in record else record["loss"])
        for record in read_records(run_dir / "metrics.jsonl")
        if {"eval", "loss"} & set(record)
    ]


def outcome(capsys, main, *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a verb."""
    try:
        run_verb(main, argv)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.optimized
def test_a_run_moved_to_an_empty_machine_again_and_again_ends_as_a_calm_one(
    config: TrainConfig, calm: Path, work_dir: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    faults = Faults({2: "term", 5: "error", 9: "term"}, tmp_path / "done")
    faults.install(monkeypatch.setattr)
    ends = []
    for _ in range(4):
        shutil.rmtree(work_dir, ignore_errors=True)
        try:
            run_dir = train(config)
        except (UnfinishedError, OSError) as error:
            ends.append(str(error).split(" at ")[0])
        else:
            break
    assert ends == ["stopped by SIGTERM", "input/output error", "stopped by SIGTERM"]
    assert_same_end(stores.URL, calm)
    assert metrics_of(run_dir) == metrics_of(calm)
    names = {path.name for path in calm.iterdir()}
    assert {name.split("/")[0] for name in stores.content()} == names - {".lock"} | {"writer.json"}

    code, out, err = outcome(capsys, verify.main, "--checkpoint", stores.URL, "--json")
    assert (code, json.loads(out)["steps"]) == (0, {"9": True, "12": True}), err
    argv = ("--max-tokens", "256", "--json")
    values = [
        json.loads(outcome(capsys, evaluation.main, "--checkpoint", str(run), *argv)[1])
        for run in (stores.URL, calm)
    ]
    assert values[0]["loss"] == values[1]["loss"]
    argv = ("--prompt", "the cat", "--max-new-tokens", "4", "--json")
    texts = [
        json.loads(outcome(capsys, generate.main, "--checkpoint", str(run), *argv)[1])["samples"]
        for run in (stores.URL, calm)
    ]
    assert texts[0] == texts[1]


def test_a_store_away_for_a_while_stops_no_training_and_at_the_end_is_told(
    config: TrainConfig, calm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def away(operation: str, path: str) -> None:
        if operation == "upload":
            raise ConnectionError("no route to host")

    with stores.before_each(away), pytest.raises(UnfinishedError, match="no route") as caught:
        train(config)
    assert "is saved in" in str(caught.value)
    run_dir, _ = local_folder(stores.URL)
    assert_same_end(run_dir, calm)
    events = read_records(run_dir / "events.jsonl")
    assert [event["checkpoint"] for event in events if event["event"] == "copy_failed"][:3] == [
        3, 6, 9,
    ]  # fmt: skip
    train(config)  # It is finished: only the copying is made up for.
    assert_same_end(stores.URL, calm)


def _put_there(run_dir: Path) -> None:
    folder = remote_folder.RemoteFolder(stores.URL)
    for path in run_dir.rglob("*"):
        if path.is_file():
            folder.write(path.relative_to(run_dir).as_posix(), path.read_bytes())


def _names_at_the_url(part: str) -> list[str]:
    names = remote_folder.RemoteFolder(stores.URL).list(f"checkpoints/12/{part}")
    assert names
    return list(names)


def test_for_reading_only_parameters_are_fetched_and_compared(calm: Path, capsys) -> None:
    _put_there(calm)
    argv = ("--max-tokens", "256", "--json", "--step", "12", "--checkpoint")
    here = json.loads(outcome(capsys, evaluation.main, *argv, str(calm))[1])
    for name in _names_at_the_url("training_state"):
        stores.flip_bit(name)
    fetched = set()
    with stores.before_each(lambda operation, path: fetched.add((operation, path))):
        code, out, _ = outcome(capsys, evaluation.main, *argv, stores.URL)
    assert code == 0
    assert json.loads(out)["loss"] == here["loss"]
    downloads = {path for operation, path in fetched if operation == "download"}
    assert any("/12/params/" in path for path in downloads)
    assert not any("training_state" in path for _, path in fetched)
    for name in _names_at_the_url("params"):
        stores.flip_bit(name)
        code, _, err = outcome(capsys, evaluation.main, *argv, stores.URL)
        assert code == 81, name
        assert f"{name} has different content" in err
        stores.flip_bit(name)


def test_reading_leaves_damaged_steps_out_and_names_what_is_missing(
    config: TrainConfig, calm: Path, capsys
) -> None:
    _put_there(calm)
    stores.flip_bit("checkpoints/12/metadata.json")
    argv = ("--checkpoint", stores.URL, "--max-tokens", "256", "--json")
    code, out, _ = outcome(capsys, evaluation.main, *argv)
    assert (code, json.loads(out)["step"]) == (0, 9)
    code, _, err = outcome(capsys, evaluation.main, *argv, "--step", "12")
    assert code == 81
    assert "checkpoints/12/metadata.json has different content" in err
    code, _, err = outcome(capsys, evaluation.main, *argv, "--step", "5")
    assert code == 2
    assert "no checkpoint of step 5 at stand-in://bucket/run; there are 9, 12" in err
    code, out, err = outcome(capsys, verify.main, "--checkpoint", stores.URL)
    assert code == 81
    assert "checkpoints/12/metadata.json has different content" in out
    for main in (evaluation.main, verify.main):
        code, _, err = outcome(capsys, main, "--checkpoint", "stand-in://bucket/none")
        assert code == 2
        assert "no run folder at stand-in://bucket/none" in err
    stores.flip_bit("checkpoints/12/metadata.json")
    stores.flip_bit("config.json")
    assert outcome(capsys, evaluation.main, *argv)[0] == 79


def test_a_url_has_a_place_on_the_disk(work_dir: Path) -> None:
    assert local_folder("gs://bucket/a/b/") == (
        work_dir / "gs" / "bucket" / "a" / "b",
        "gs://bucket/a/b/",
    )
    assert local_folder("runs/a") == (Path("runs/a"), None)
    for url in ("gs://", "gs://bucket/../other", "file:///"):
        with pytest.raises(UsageError, match="names no folder"):
            local_folder(url)


def test_killed_processes_on_ever_new_machines_end_as_a_calm_one(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole processes, killed in the midst; the stand-in is a folder behind a file:// URL."""
    dataset = make_dataset(tmp_path / "data")
    path = write_config(tmp_path / "c.py", [(dataset, 1)], 36, 4)
    path.write_text(
        "import jaxgpt.storage.writer_lease as lease\nlease.LEASE_SECONDS = 1.0\n"
        + path.read_text()
    )
    url, cache = f"file://{tmp_path}/store/run", tmp_path / "cache"
    arguments = ("--config", str(path), "--run-dir", url)
    for number in range(2):
        monkeypatch.setenv("JAXGPT_WORK_DIR", str(tmp_path / f"machine-{number}"))
        process = subprocess.Popen(
            [sys.executable, "-m", "jaxgpt.train", *arguments],
            cwd=REPOSITORY, env=environment(cache), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(f"store/run/checkpoints/{12 * (number + 1)}/params/*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.wait()
    monkeypatch.setenv("JAXGPT_WORK_DIR", str(tmp_path / "last"))
    result = run_in_process("train", *arguments, cache=cache)
    assert result.returncode == 0, result.stderr
    calm = tmp_path / "calm"
    result = run_in_process("train", "--config", str(path), "--run-dir", str(calm), cache=cache)
    assert result.returncode == 0, result.stderr
    mesh = single_device_mesh()
    one, other = (open_run(run).restore_params(36, mesh) for run in (url, calm))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert metrics_of(local_folder(url)[0]) == metrics_of(calm)


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "remote_runs.md").read_text()
    (block,) = re.findall(r"^```\n(.*?)^```", page, re.M | re.S)
    dataset = make_dataset(tmp_path / "data")
    for old, new in {
        "configs/quickstart.py": str(write_config(tmp_path / "c.py", [(dataset, 1)], 20, 2)),
        "runs/quickstart/data": str(dataset),
        "/tmp/store": f"{tmp_path}/store",
    }.items():
        assert old in block
        block = block.replace(old, new)
    process = subprocess.run(
        ["bash", "-ec", block],
        cwd=REPOSITORY, env=environment(tmp_path / "cache"), capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "whole steps: 2, 4" in process.stdout


def test_two_hosts_write_one_url_and_one_goes_on_from_it(tmp_path: Path, monkeypatch) -> None:
    config = write_small_config(tmp_path / "small.py", make_dataset(tmp_path / "data"))
    url, cache = f"file://{tmp_path}/store/run", tmp_path / "cache"
    arguments = ["--config", str(config), "--run-dir", url]
    monkeypatch.setenv("JAXGPT_WORK_DIR", str(tmp_path / "shared"))
    with Hosts([*arguments, "--schedule.num-steps", "6"], cache) as hosts:
        ends = hosts.ends()
    assert [code for code, _, _ in ends] == [0, 0], ends
    monkeypatch.setenv("JAXGPT_WORK_DIR", str(tmp_path / "other"))
    result = run_in_process("train", *arguments, cache=cache, num_devices=8)
    assert result.returncode == 0, result.stderr
    assert verify_remote_run(url).steps == {6: True, 12: True}
    losses = [step for step, _ in metrics_of(local_folder(url)[0])]
    assert losses == [1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12, 12]
