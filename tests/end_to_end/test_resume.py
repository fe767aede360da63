"""A run that is killed and continued is, bit for bit, the run that was left alone."""

import hashlib
import json
import random
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.config import load_config
from jaxgpt.data.loader import open_training_batches
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.run import open_run
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.state import plan_state
from tests.event_files import recorded_figures, shown_figures
from tests.tiny import make_dataset, run_until, run_verb, write_config

pytestmark = pytest.mark.optimized
NUM_STEPS = 40


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two datasets with one tokenizer, a config that mixes them, a compile cache."""
    root = tmp_path_factory.mktemp("resume")
    one = make_dataset(root / "one")
    two = make_dataset(root / "two", seed=1, tokenizer=Tokenizer.load(one / "tokenizer"))
    config = write_config(root / "tiny.py", [(one, 0.7), (two, 0.3)], NUM_STEPS, save_every=4)
    return {"root": root, "config": config, "cache": root / "cache"}


def _fingerprint(run_dir: Path) -> dict[str, str]:
    """Hashes of the parameters, the rest of the state, the next batch and the metrics."""
    run = open_run(run_dir)
    config = run.config
    mesh = single_device_mesh()
    schedule = config.schedule.build()
    plan, _ = plan_state(
        run.build_model(),
        lambda axes: config.optimizer.build(schedule, axes),
        config.sharding,
        mesh,
    )
    rest = {key: getattr(plan.abstract, key) for key in ("step", "opt_state", "rng")}
    params, rest, _ = run.checkpoints.restore(NUM_STEPS, plan.abstract.trainable, rest)
    rest["rng"] = jax.random.key_data(rest["rng"])
    batches = open_training_batches(config.data, config.batch, config.seed)
    return {
        "params": _hash(params),
        "rest": _hash(rest),
        "next batch": _hash(batches.batch(int(rest["step"]))),
        "metrics": _metrics(run_dir),
    }


def _hash(tree: object) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _metrics(run_dir: Path) -> str:
    """Return metrics.jsonl without what a clock measured; TensorBoard must show the same."""
    assert shown_figures(run_dir) == recorded_figures(run_dir)
    timings = {"tokens_per_second", "mfu", "seconds", "data_wait_seconds", "time"}
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
    records = [record for record in records if "goodput" not in record]
    steps = [record["step"] for record in records if "loss" in record]
    assert steps == list(range(1, NUM_STEPS + 1)), "a step stands twice, or none"
    kept = [{key: record[key] for key in record if key not in timings} for record in records]
    return json.dumps(kept)


@pytest.fixture(scope="module")
def calm(world: dict[str, Path]) -> Path:
    """The undisturbed run."""
    run_dir = world["root"] / "calm"
    result = run_verb(
        "train", "--config", str(world["config"]), "--run-dir", str(run_dir), cache=world["cache"]
    )
    assert result.returncode == 0, result.stderr
    return run_dir


@pytest.mark.slow
def test_killed_at_five_random_moments(world: dict[str, Path], calm: Path) -> None:
    run_dir = world["root"] / "killed"
    command = ("train", "--config", str(world["config"]), "--run-dir", str(run_dir))
    rng = random.Random(0)
    kills = 0
    for _ in range(5):
        code, _ = run_until(
            run_dir / "metrics.jsonl",
            rng.randint(3, 9),
            signal.SIGKILL,
            *command,
            cache=world["cache"],
        )
        kills += code == -signal.SIGKILL
    assert kills == 5
    result = run_verb(*command, cache=world["cache"])
    assert result.returncode == 0, result.stderr
    assert _fingerprint(run_dir) == _fingerprint(calm)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 75, marks=pytest.mark.slow)],
)
def test_a_signal_saves_and_the_run_goes_on_exactly(
    world: dict[str, Path], calm: Path, number: signal.Signals, code: int
) -> None:
    run_dir = world["root"] / f"stopped{code}"
    command = ("train", "--config", str(world["config"]), "--run-dir", str(run_dir))
    stopped, errors = run_until(
        run_dir / "metrics.jsonl", 6, number, *command, cache=world["cache"]
    )
    assert stopped == code, errors
    config = load_config(world["config"], TrainConfig)
    saved = Checkpoints(run_dir / "checkpoints", config.checkpoint, read_only=True).latest()
    records = (run_dir / "metrics.jsonl").read_text().strip().split("\n")
    last = max(json.loads(line)["step"] for line in records)
    assert saved == last, "the newest step was not saved"
    assert "Run the same command again" in errors
    result = run_verb(*command, cache=world["cache"])
    assert result.returncode == 0, result.stderr
    assert _fingerprint(run_dir) == _fingerprint(calm)


def test_a_finished_run_changes_nothing(world: dict[str, Path], calm: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in calm.rglob("*") if path.name != ".lock"}
    result = run_verb(
        "train", "--config", str(world["config"]), "--run-dir", str(calm), cache=world["cache"]
    )
    assert result.returncode == 0
    after = {path: path.stat().st_mtime_ns for path in calm.rglob("*") if path.name != ".lock"}
    assert {path for path in after if path.is_file()} == {path for path in before if path.is_file()}
    assert all(before[path] == after[path] for path in before if path.is_file())
