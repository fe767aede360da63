"""Every file in configs/ loads, survives JSON, and describes something that can be built."""

import contextlib
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxgpt.batch import Batch
from jaxgpt.config import from_json, load_config, to_json
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model.cost import num_parameters
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.tuning.based_config import TuningConfig
from jaxgpt.training.loss import language_model_loss
from jaxgpt.training.state import TrainState, plan_state
from jaxgpt.training.step import make_train_step

FOLDER = Path(__file__).resolve().parent.parent / "configs"
VOCAB = 50_257


def _load(path: Path) -> TrainConfig | TuningConfig | DatasetConfig:
    for kind in (TrainConfig, TuningConfig):
        with contextlib.suppress(ConfigError):
            return load_config(path, kind)
    return load_config(path, DatasetConfig)


CONFIGS = {path.stem: _load(path) for path in sorted(FOLDER.glob("*.py"))}
TRAINING = {name: config for name, config in CONFIGS.items() if isinstance(config, TrainConfig)}


@pytest.mark.parametrize("name", CONFIGS)
def test_json_gives_back_an_equal_config(name: str) -> None:
    config = CONFIGS[name]
    assert from_json(to_json(config), type(config)) == config


@pytest.mark.parametrize("name", TRAINING)
def test_one_step_shapes_up(name: str) -> None:
    """Trace a whole optimiser step without computing anything."""
    config = TRAINING[name]
    model = config.model.build(VOCAB)
    schedule = config.schedule.build()
    plan, optimizer = plan_state(
        model,
        lambda axes: config.optimizer.build(schedule, axes),
        config.sharding,
        single_device_mesh(),
    )
    loss = language_model_loss(model, jnp.ones(VOCAB, jnp.int32), config.loss)
    step = make_train_step(loss, optimizer, config.batch.num_micro_batches)
    shape = (config.batch.global_batch_size, config.batch.sequence_length)
    ids = jax.ShapeDtypeStruct(shape, jnp.int32)
    rows = Batch(ids, ids, ids, ids, jax.ShapeDtypeStruct(shape, jnp.float32))
    state, metrics = jax.eval_shape(step, plan.abstract, rows)
    assert isinstance(state, TrainState)
    assert metrics.loss.shape == ()
    same = jax.tree.map(
        lambda a, b: a.shape == b.shape and a.dtype == b.dtype,
        state.trainable,
        plan.abstract.trainable,
    )
    assert all(jax.tree.leaves(same))
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(plan.abstract.trainable))
    assert size == num_parameters(config.model, VOCAB)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("base", 124),
        ("modern", 162),
        ("medium", 354),
        ("large", 773),
        ("llama_1b", 1236),
        ("llama_70b", 70_554),
    ],
)
def test_sizes_are_what_the_names_say(name: str, millions: int) -> None:
    vocab = 128_256 if name.startswith("llama") else VOCAB
    size = num_parameters(TRAINING[name].model, vocab)
    assert abs(size / 1e6 - millions) < 0.02 * millions


def test_base_spells_every_field() -> None:
    text = (FOLDER / "base.py").read_text()
    config = TRAINING["base"]
    for section in ("model", "data", "batch", "schedule", "optimizer", "evaluation", "checkpoint"):
        value = getattr(config, section)
        for field in type(value).__dataclass_fields__:
            assert f"{field}=" in text, f"{section}.{field} is not in configs/base.py"


def test_schedules_of_all_configs_are_finite() -> None:
    for config in TRAINING.values():
        schedule = config.schedule.build()
        assert math.isfinite(float(schedule(0)))
        assert isinstance(config.optimizer.build(schedule, {}), optax.GradientTransformation)
