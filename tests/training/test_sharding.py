"""The same training on any mesh: losses, gradients and where the bytes lie."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.batch import Batch
from jaxgpt.data.packing import make_rows
from jaxgpt.errors import ConfigError
from jaxgpt.model.attention import GroupedQueryAttention
from jaxgpt.model.feed_forward import SwiGlu
from jaxgpt.model.gpt import GptConfig
from jaxgpt.parallel.mesh import MeshConfig, make_mesh, single_device_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh, partition_spec, to_devices
from jaxgpt.training.loss import LossConfig, language_model_loss
from jaxgpt.training.optimizer import AdamW, Muon
from jaxgpt.training.state import init_parameters, init_state, plan_state
from jaxgpt.training.step import compile_step, make_train_step

VOCAB = 200
CONFIG = GptConfig(
    num_layers=2,
    d_model=32,
    attention=GroupedQueryAttention(num_heads=4, num_kv_heads=2, head_dim=8),
    feed_forward=SwiGlu(hidden=64),
)


def _batch(seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, VOCAB, (16, 33))
    return make_rows(tokens, rng.random(tokens.shape) < 0.1)


def _train(mesh, num_steps, make_optimizer, parts=1):
    model, rules = CONFIG.build(VOCAB), ShardingRules()
    plan, optimizer = plan_state(model, make_optimizer, rules, mesh)
    loss = language_model_loss(model, jnp.ones(VOCAB, jnp.int32), LossConfig())
    step = compile_step(make_train_step(loss, optimizer, parts), plan.abstract, mesh)
    losses = []
    with on_mesh(mesh, rules):
        params = init_parameters(model, rules, mesh, seed=0)
        state = init_state(params, optimizer, plan, seed=0)
        for seed in range(num_steps):
            state, metrics = step(state, to_devices(_batch(seed), mesh))
            losses.append(float(metrics.loss))
    return losses, state


def _sgd(axes):
    return optax.sgd(0.5)


@pytest.fixture(scope="module")
def alone():
    return _train(single_device_mesh(), 5, _sgd)


MESHES = [
    MeshConfig(data=8),
    MeshConfig(data=2, context=4),
    pytest.param(MeshConfig(data=1, fsdp=8), marks=pytest.mark.slow),
    pytest.param(MeshConfig(data=4, tensor=2), marks=pytest.mark.slow),
    pytest.param(MeshConfig(data=2, fsdp=2, tensor=2), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("config", MESHES, ids=str)
def test_every_mesh_trains_what_one_device_does(config: MeshConfig, alone) -> None:
    losses, state = _train(make_mesh(config), 5, _sgd)
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    for ours, theirs in zip(
        jax.tree.leaves(state.trainable), jax.tree.leaves(alone[1].trainable), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_micro_batches_on_a_mesh_change_nothing(alone) -> None:
    losses, _ = _train(make_mesh(MeshConfig(data=4), jax.devices()[:4]), 5, _sgd, parts=2)
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_the_optimizer_state_lies_where_its_parameter_does(optimizer) -> None:
    def build(axes):
        return optimizer.build(optax.constant_schedule(1e-3), axes)

    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    losses, state = _train(mesh, 2, build)
    assert np.all(np.isfinite(losses))
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves((state.trainable, state.opt_state)))
    here = sum(
        leaf.addressable_shards[0].data.nbytes
        for leaf in jax.tree.leaves((state.trainable, state.opt_state))
    )
    # Norm scales and counters are copied; they are about 1% of this small model.
    assert here < whole / 4
    up = state.trainable["blocks"]["feed_forward"]
    kernel = jax.tree.leaves(up)[0]
    assert not kernel.sharding.is_fully_replicated


def test_a_mesh_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not divide the 8 devices"):
        make_mesh(MeshConfig(data=3))
    with pytest.raises(ConfigError, match="at most one of them -1"):
        MeshConfig(data=-1, fsdp=-1)
    with pytest.raises(ConfigError, match="is not divisible by mesh axis tensor=8"):
        _train(make_mesh(MeshConfig(data=1, tensor=8)), 1, _sgd)


def test_an_axis_without_a_rule_or_placed_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no sharding rule for the axis 'emebd'.*'embed'"):
        partition_spec(("emebd",), ShardingRules())
    with pytest.raises(ConfigError, match="twice on one mesh axis"):
        partition_spec(("mlp", "heads"), ShardingRules())
