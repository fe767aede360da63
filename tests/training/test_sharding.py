"""The same training on any mesh: losses, gradients and where the bytes lie."""

import random
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.batch import Batch
from jaxgpt.config import replace
from jaxgpt.data.packing import make_rows
from jaxgpt.errors import ConfigError
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layer_stack import Scanned, Unrolled
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.pipeline import Pipelined
from jaxgpt.parallel.mesh import MeshConfig, make_mesh, single_device_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh, partition_spec, to_devices
from jaxgpt.training.loss import LossConfig, language_model_loss
from jaxgpt.training.optimizer import AdamW, Muon
from jaxgpt.training.state import init_parameters, init_state, plan_state
from jaxgpt.training.step import compile_step, make_train_step

VOCAB = 200
NUM_STEPS = 4
CONFIG = GptConfig(
    num_layers=2,
    d_model=32,
    attention=GroupedQueryAttention(num_heads=8, num_kv_heads=2, head_dim=4, windows=(20,)),
    feed_forward=SwiGlu(hidden=64),
    layers=Scanned(),
)
DEEP = replace(CONFIG, num_layers=8, d_model=16)


class _Kept(NamedTuple):
    """The gradients of the first step."""

    count: jax.Array
    grads: Any


def _sgd(axes):
    """SGD that keeps the gradients of the first step in its state."""

    def update(grads, state, params=None):
        first = state.count == 0
        kept = jax.tree.map(lambda new, old: jnp.where(first, new, old), grads, state.grads)
        return jax.tree.map(lambda grad: -0.5 * grad, grads), _Kept(state.count + 1, kept)

    return optax.GradientTransformation(
        lambda params: _Kept(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params)),
        update,
    )


def _batch(seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, VOCAB, (8, 33))
    return make_rows(tokens, rng.random(tokens.shape) < 0.1)


def _rules(mesh) -> ShardingRules:
    # More devices than key/value heads: a copy of them each.
    return ShardingRules(kv_heads=None if mesh.shape["tensor"] > 2 else "tensor")


def _train(mesh, num_steps, make_optimizer, parts=1, config=CONFIG):
    model, rules = config.build(VOCAB), _rules(mesh)
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


@pytest.fixture(scope="module")
def alone():
    return _train(single_device_mesh(), NUM_STEPS, _sgd)


def _meshes():
    """Every pair of axes that split arrays; each axis alone is in test_meshes_on_hosts.py."""
    names, quick = ("data", "fsdp", "context", "tensor"), (1, 2, 2, 2)
    # The last has more tensor shards than key/value heads.
    for sizes in (quick, (2, 2, 1, 2), (2, 1, 4, 1), (1, 1, 2, 4)):
        config = MeshConfig(**dict(zip(names, sizes, strict=True)))
        marks = () if sizes == quick else pytest.mark.slow
        label = "-".join(f"{n}{s}" for n, s in zip(names, sizes, strict=True) if s > 1)
        yield pytest.param(config, marks=marks, id=label)


def _assert_close(ours, theirs, limit=1e-5):
    """Norm of the difference over the norm, of each array."""
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(theirs)]
    for name, one, two in zip(names, jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        one, two = np.asarray(one, np.float64), np.asarray(two, np.float64)
        assert np.linalg.norm(one - two) <= limit * np.linalg.norm(two), name


@pytest.mark.parametrize("config", list(_meshes()))
def test_every_mesh_trains_what_one_device_does(config: MeshConfig, alone) -> None:
    devices = jax.devices()[: np.prod(list(config.sizes.values()))]
    losses, state = _train(make_mesh(config, devices), NUM_STEPS, _sgd)
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    _assert_close(state.opt_state.grads, alone[1].opt_state.grads)
    _assert_close(state.trainable, alone[1].trainable)


@pytest.fixture(scope="module")
def deep_alone():
    return _train(single_device_mesh(), NUM_STEPS, _sgd, config=DEEP)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(pipeline=4, data=2),
        MeshConfig(pipeline=2, data=1, fsdp=2, tensor=2),
        MeshConfig(pipeline=2, data=2, context=2),
    ],
    ids=["4-data2", "2-fsdp2-tensor2", "2-data2-context2"],
)
def test_stages_train_what_one_device_does(mesh: MeshConfig, deep_alone) -> None:
    config = replace(DEEP, layers=Pipelined(num_micro_batches=2))
    losses, state = _train(make_mesh(mesh), NUM_STEPS, _sgd, config=config)
    np.testing.assert_allclose(losses, deep_alone[0], rtol=1e-5)
    _assert_close(state.opt_state.grads, deep_alone[1].opt_state.grads)
    _assert_close(state.trainable, deep_alone[1].trainable)


@pytest.mark.slow
def test_micro_batches_on_a_mesh_change_nothing(alone) -> None:
    mesh = make_mesh(MeshConfig(data=4), jax.devices()[:4])
    losses, _ = _train(mesh, NUM_STEPS, _sgd, parts=2)
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)


def _assert_spread(state) -> None:
    """Check that a device holds no more than its share of parameters and optimizer state."""
    leaves = jax.tree.leaves((state.trainable, state.opt_state))
    whole = sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    here = sum(
        np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves
    )
    # Norm scales and counters are copied; they are about 1% of this small model.
    assert here < whole / 4
    kernel = jax.tree.leaves(state.trainable["blocks"]["feed_forward"])[0]
    assert not kernel.sharding.is_fully_replicated


@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_the_optimizer_state_lies_where_its_parameter_does(optimizer) -> None:
    def build(axes):
        return optimizer.build(optax.constant_schedule(1e-3), axes)

    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    plan, _ = plan_state(CONFIG.build(VOCAB), build, ShardingRules(), mesh)
    _assert_spread(plan.abstract)


@pytest.mark.slow
def test_after_some_steps_it_still_does() -> None:
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    losses, state = _train(mesh, 2, lambda axes: AdamW().build(optax.constant_schedule(1e-3), axes))
    assert np.all(np.isfinite(losses))
    _assert_spread(state)


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=2, fsdp=4),
        pytest.param(MeshConfig(data=2, fsdp=2, tensor=2), marks=pytest.mark.slow),
    ],
    ids=["data2-fsdp4", "data2-fsdp2-tensor2"],
)
def test_the_compiler_finds_a_way_from_every_gradient_to_its_parameter(mesh, capfd) -> None:
    """It says so where it copies an array to all devices, as it knows no other way to place it."""
    config = replace(CONFIG, num_layers=3, layers=Unrolled())
    model, rules, devices = config.build(VOCAB), ShardingRules(), make_mesh(mesh)
    # A rate that no program in a compile cache has: what comes from there is silent.
    rate = optax.constant_schedule(1e-3 * random.SystemRandom().random())
    plan, optimizer = plan_state(model, lambda axes: Muon().build(rate, axes), rules, devices)
    loss = language_model_loss(model, jnp.ones(VOCAB, jnp.int32), LossConfig())
    step: Any = compile_step(make_train_step(loss, optimizer, 1), plan.abstract, devices)
    batch = to_devices(_batch(0), devices)
    with on_mesh(devices, rules):
        program = step.lower(plan.abstract, batch).compile()
        assert "rematerialization" not in capfd.readouterr().err
        params = init_parameters(model, rules, devices, seed=0)
        state, metrics = program(init_state(params, optimizer, plan, seed=0), batch)
    assert np.isfinite(metrics.loss)
    for leaf, planned in zip(jax.tree.leaves(state), jax.tree.leaves(plan.abstract), strict=True):
        assert leaf.sharding.is_equivalent_to(planned.sharding, leaf.ndim)


def test_a_mesh_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not divide the 8 devices"):
        make_mesh(MeshConfig(data=3))
    with pytest.raises(ConfigError, match="at most one of them -1"):
        MeshConfig(data=-1, fsdp=-1)
    with pytest.raises(
        ConfigError,
        match=r"2 is not divisible by mesh axis tensor=8; .*\(sharding\.kv_heads=None\)",
    ):
        plan_state(
            CONFIG.build(VOCAB), _sgd, ShardingRules(), make_mesh(MeshConfig(data=1, tensor=8))
        )


def test_an_axis_without_a_rule_or_placed_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no sharding rule for the axis 'emebd'.*'embed'"):
        partition_spec(("emebd",), ShardingRules())
    with pytest.raises(ConfigError, match="twice on one mesh axis"):
        partition_spec(("mlp", "heads"), ShardingRules())
