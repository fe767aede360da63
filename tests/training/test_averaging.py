"""Averaged weights: what they are, and that nothing else of a run changes."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.config import load_config, replace
from jaxgpt.errors import ConfigError, MismatchError
from jaxgpt.parallel.mesh import MeshConfig, single_device_mesh
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.pretrain import train_run
from jaxgpt.runs.run import open_run
from jaxgpt.runtime.settings import RuntimeConfig
from jaxgpt.training.averaging import ExponentialAverage
from jaxgpt.training.metrics import read_records
from tests.tiny import make_dataset, write_config

NUM_STEPS = 6


def test_the_average_follows_the_definition():
    averaging, rng = ExponentialAverage(decay=0.6), np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.standard_normal(5), jnp.float32)}
    optimizer = averaging.wrap(optax.sgd(0.3))
    state, expected = optimizer.init(params), np.asarray(params["w"], np.float64)
    for step in range(20):
        grads = {"w": jnp.asarray(rng.standard_normal(5), jnp.float32)}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        decay = min(0.6, (step + 1) / (step + 10))
        expected = decay * expected + (1 - decay) * np.asarray(params["w"], np.float64)
        found = averaging.weights(params, state)["w"]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_weights_in_bfloat16_have_an_average_that_small_steps_move():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    averaging = ExponentialAverage(decay=0.999)
    optimizer = averaging.wrap(optax.identity())
    state = optimizer.init(params)._replace(count=jnp.asarray(10**6))
    moved = {"w": jnp.full(3, 1.5, jnp.bfloat16)}
    for _ in range(50):
        _, state = optimizer.update(jax.tree.map(jnp.zeros_like, moved), state, moved)
    np.testing.assert_allclose(state.average["w"], 1.5 - 0.5 * 0.999**50, rtol=1e-5)
    assert averaging.weights(params, state)["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_a_decay_that_averages_nothing_is_refused(decay):
    with pytest.raises(ConfigError, match="must lie between 0 and 1"):
        ExponentialAverage(decay=decay)


@pytest.fixture(scope="module")
def plain_config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    root = tmp_path_factory.mktemp("averaging")
    dataset = make_dataset(root / "data")
    config = load_config(write_config(root / "c.py", [(dataset, 1)], NUM_STEPS, 3), TrainConfig)
    return replace(
        config,
        model=replace(config.model, num_layers=1),
        batch=replace(config.batch, num_micro_batches=1),
        mesh=MeshConfig(data=2, fsdp=4),
        evaluation=replace(config.evaluation, every_steps=3, prompts=()),
        runtime=RuntimeConfig(compile_cache=str(root / "cache")),
    )


@pytest.fixture(scope="module")
def averaged_config(plain_config: TrainConfig) -> TrainConfig:
    averaging = ExponentialAverage(decay=0.7)
    return replace(plain_config, optimizer=replace(plain_config.optimizer, averaging=averaging))


@pytest.fixture(scope="module")
def runs(
    plain_config: TrainConfig,
    averaged_config: TrainConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("runs")
    train_run(plain_config, root / "plain", "auto", False)
    train_run(averaged_config, root / "averaged", "auto", False)
    return root / "plain", root / "averaged"


def _params(run_dir: Path, step: int) -> list[np.ndarray]:
    restored = open_run(run_dir).restore_params(step, single_device_mesh())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(restored)]


def _records(run_dir: Path, key: str) -> list:
    return [one[key] for one in read_records(run_dir / "metrics.jsonl") if key in one]


def test_it_is_another_set_of_weights_and_the_same_training(runs):
    plain, averaged = runs
    np.testing.assert_allclose(_records(plain, "loss"), _records(averaged, "loss"), rtol=1e-6)
    # What the run itself measured: by weights that lag behind.
    lagging, last = (_records(run_dir, "eval")[-1]["loss"] for run_dir in (averaged, plain))
    assert lagging > last + 1e-3
    for one, other in zip(_params(plain, NUM_STEPS), _params(averaged, NUM_STEPS), strict=True):
        assert np.abs(one - other).max() > 1e-4


@pytest.mark.optimized
def test_a_resumed_run_ends_as_one_without_a_break_to_the_bit(runs, averaged_config, tmp_path):
    run_dir = shutil.copytree(runs[1], tmp_path / "run")
    shutil.rmtree(run_dir / "checkpoints" / str(NUM_STEPS))
    train_run(averaged_config, run_dir, "must", False)
    for one, other in zip(_params(runs[1], NUM_STEPS), _params(run_dir, NUM_STEPS), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_checkpoint_without_an_average_is_refused_by_name(runs, averaged_config, tmp_path):
    run_dir = shutil.copytree(runs[0], tmp_path / "run")
    shutil.rmtree(run_dir / "checkpoints" / str(NUM_STEPS))
    with pytest.raises(MismatchError, match="averag"):
        train_run(averaged_config, run_dir, "must", False)
