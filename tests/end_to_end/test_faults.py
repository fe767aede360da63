"""A run through bad batches and interruptions: it tells what happened and ends where it should.

In one process, on eight simulated devices; what must be a process of its own is in test_hang.py.
"""

import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.config import load_config, replace
from jaxgpt.errors import DivergedError, UnfinishedError
from jaxgpt.evaluation import objective
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.pretrain import train_run
from jaxgpt.runs.run import open_run
from jaxgpt.runtime.settings import RuntimeConfig
from jaxgpt.training.metrics import read_records
from jaxgpt.training.optimizer import AdamW
from jaxgpt.training.recovery import NoSkipping, SkipSpikes
from tests.faults import Faults
from tests.tiny import make_dataset, write_config

pytestmark = pytest.mark.slow

NUM_STEPS = 24
# One bad batch of each kind, then a streak that makes the run go back.
BAD = {2: "nan", 12: "spike", 13: "nan_gradient", 17: "nan", 18: "nan", 19: "nan"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    root = tmp_path_factory.mktemp("faults")
    dataset = make_dataset(root / "data")
    config = load_config(write_config(root / "c.py", [(dataset, 1)], NUM_STEPS, 4), TrainConfig)
    return replace(
        config,
        model=replace(config.model, num_layers=1),
        batch=replace(config.batch, global_batch_size=8, num_micro_batches=1),
        optimizer=AdamW(),
        recovery=SkipSpikes(
            window=16, min_steps=8, max_in_a_row=3, max_in_window=16, rewind_steps=1
        ),
        checkpoint=CheckpointConfig(every_steps=4, keep_latest=3),
        evaluation=replace(config.evaluation, every_steps=12, prompts=(), batch_size=8),
        runtime=RuntimeConfig(compile_cache=""),
    )


def _train(config: TrainConfig, run_dir: Path) -> None:
    train_run(config, run_dir, "auto", False)


def _params(run_dir: Path) -> list[np.ndarray]:
    run = open_run(run_dir)
    params = run.restore_params(NUM_STEPS, single_device_mesh())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def _events(run_dir: Path, name: str) -> list[dict]:
    return [event for event in read_records(run_dir / "events.jsonl") if event["event"] == name]


@pytest.fixture(scope="module")
def through_bad_batches(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory):
    """A run that is left alone with its bad batches, and the batches that it read."""
    folder = tmp_path_factory.mktemp("bad")
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(BAD, folder / "done")
        faults.install(patch.setattr)
        _train(config, folder / "run")
    return folder / "run", faults.read


def test_bad_batches_are_skipped_by_number_and_a_streak_is_left_behind(through_bad_batches) -> None:
    run_dir, _ = through_bad_batches
    skips = [(event["step"], event["batch"]) for event in _events(run_dir, "skip")]
    assert skips == [(3, 2), (13, 12), (14, 13)]
    (rollback,) = _events(run_dir, "rollback")
    assert rollback["step"] == 16
    assert rollback["back_from"] == 20
    assert rollback["batches"] == [16, 4]
    assert rollback["skipped_steps"] == [18, 19, 20]
    assert "3 updates in a row" in rollback["reason"]
    assert _events(run_dir, "diverged") == []
    assert all(np.isfinite(leaf).all() for leaf in _params(run_dir))


def test_after_going_back_no_step_stands_twice_and_no_batch_is_read_again(
    through_bad_batches,
) -> None:
    run_dir, read = through_bad_batches
    lines = read_records(run_dir / "metrics.jsonl")
    assert [line["step"] for line in lines if "goodput" in line] == [4, 8, 12, 16, 20, 24]
    records = [line for line in lines if "loss" in line]
    assert [record["step"] for record in records] == list(range(1, NUM_STEPS + 1))
    assert records[-1]["skipped_steps"] == 3, "those of the path that was left are not counted"
    # Batches are read ahead: the second path begins where 20 follows something later.
    again = max(place for place, index in enumerate(read) if index == 20)
    assert read[again : again + 8] == list(range(20, 28))
    checkpoints = Checkpoints(run_dir / "checkpoints", CheckpointConfig(), read_only=True)
    assert checkpoints.read_metadata(NUM_STEPS)["jumps"] == [[16, 4]]
    assert max(checkpoints.steps()) == NUM_STEPS


def test_interruptions_change_nothing_of_it(
    config: TrainConfig, through_bad_batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM while compiling, in an evaluation, before a step; a loader that fails."""
    run_dir = tmp_path / "run"
    faults = Faults({**BAD, 8: "error", 22: "term"}, tmp_path / "done")
    faults.install(monkeypatch.setattr)
    loss, measure = objective.language_model_loss, objective.measure_perplexity
    moments = {"compile", "evaluation"}

    def once(moment: str) -> None:
        if moment in moments:
            moments.remove(moment)
            os.kill(os.getpid(), signal.SIGTERM)

    def traced_loss(*arguments):
        inner = loss(*arguments)

        def traced(*inputs):
            once("compile")  # A loss is called while the step is being compiled, and only then.
            return inner(*inputs)

        return traced

    def interrupted(*arguments):
        once("evaluation")
        return measure(*arguments)

    monkeypatch.setattr(objective, "language_model_loss", traced_loss)
    monkeypatch.setattr(objective, "measure_perplexity", interrupted)
    ends: list[str] = []
    for _ in range(8):
        try:
            _train(config, run_dir)
        except (UnfinishedError, OSError) as error:
            ends.append(type(error).__name__)
        else:
            break
    assert not moments
    assert ends == ["UnfinishedError", "OSError", "UnfinishedError", "UnfinishedError"]
    assert len(_events(run_dir, "stopped")) == 3
    for one, other in zip(_params(run_dir), _params(through_bad_batches[0]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_too_many_rollbacks_end_the_run_and_nothing_bad_is_saved(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(dict.fromkeys(range(9, 99), "nan"), tmp_path / "done")
    faults.install(monkeypatch.setattr)
    config = replace(config, recovery=replace(config.recovery, max_rollbacks=2))
    with pytest.raises(DivergedError, match="3 updates in a row") as caught:
        _train(config, tmp_path / "run")
    assert caught.value.exit_code == 80
    rollbacks = _events(tmp_path / "run", "rollback")
    assert [event["step"] for event in rollbacks] == [8, 8]
    assert [event["batches"] for event in rollbacks] == [[8, 4], [12, 3]]
    assert _events(tmp_path / "run", "diverged")
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", CheckpointConfig(), read_only=True)
    assert checkpoints.latest() == 8


def test_without_skipping_the_first_nan_ends_the_run(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults({5: "nan"}, tmp_path / "done")
    faults.install(monkeypatch.setattr)
    with pytest.raises(DivergedError, match="step 6: loss nan"):
        _train(replace(config, recovery=NoSkipping()), tmp_path / "run")
