"""Training of an adapter alone: frozen weights stay, have no optimiser state and no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.config import replace
from jaxgpt.data.packing import make_rows
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layer_stack import Scanned, Unrolled
from jaxgpt.model.layers.adapters import NO_ADAPTER, Dora, Lora
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.pipeline import Pipelined
from jaxgpt.parallel.mesh import MeshConfig, abstract_mesh, make_mesh, single_device_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh, to_devices
from jaxgpt.runtime.target import CompileTarget
from jaxgpt.training.loss import LossConfig, language_model_loss
from jaxgpt.training.optimizer import AdamW, Muon, is_matrix, is_orthogonalized
from jaxgpt.training.state import init_parameters, init_state, plan_state
from jaxgpt.training.step import compile_step, make_train_step
from jaxgpt.training.weight_copies import plan_copies

VOCAB, ALL, RULES = 100, 10**9, ShardingRules()
SCHEDULE = optax.constant_schedule(1e-2)
CONFIG = GptConfig(
    num_layers=2,
    d_model=32,
    attention=GroupedQueryAttention(num_heads=4, num_kv_heads=2),
    feed_forward=SwiGlu(hidden=64),
    head=LanguageModelHead(tied=False),
    layers=Scanned(),
)
GPU = CompileTarget(platform="gpu", compute_capability=9.0)


def _adamw(axes):
    return AdamW().build(SCHEDULE, axes)


def _plan(config, adapter, mesh, make_optimizer=_adamw):
    model = config.build(VOCAB, adapter)
    return plan_state(model, make_optimizer, RULES, mesh, is_trainable=adapter.is_trainable)


def _batch(seed: int):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, VOCAB, (8, 17))
    return make_rows(tokens, rng.random(tokens.shape) < 0.1)


def _train(adapter, sizes=None, config=CONFIG, num_steps=3):
    """Train on one device, or on a mesh; return losses, parameters before and after, and the rest.

    The adapter begins with numbers for which no gradient is zero.
    """
    mesh = single_device_mesh() if sizes is None else make_mesh(sizes)
    model = config.build(VOCAB, adapter)
    plan, optimizer = _plan(config, adapter, mesh)
    copies = plan_copies(config, plan, GPU, 2, ALL)
    loss = language_model_loss(model, jnp.ones(VOCAB, jnp.int32), LossConfig())
    step = compile_step(make_train_step(loss, optimizer, 2, None, copies), plan.abstract, mesh)
    with on_mesh(mesh, RULES):
        rng = np.random.default_rng(1)
        params = jax.tree.map(
            lambda leaf: jax.device_put(
                0.1 * rng.standard_normal(leaf.shape, np.float32), leaf.sharding
            ),
            plan.abstract.trainable,
        )
        frozen = init_parameters(config.build(VOCAB), RULES, mesh, seed=0)
        state = init_state(params, optimizer, plan, 0, frozen)
        before, losses = jax.device_get((state.trainable, state.frozen)), []
        for _ in range(num_steps):
            state, metrics = step(state, to_devices(_batch(0), mesh))
            losses.append(float(metrics.loss))
    after = jax.device_get((state.trainable, state.frozen))
    return losses, before, after, jax.device_get(state.opt_state)


@pytest.fixture(scope="module")
def alone():
    return _train(Dora(rank=2))


def _count(tree) -> int:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(tree))


def test_only_the_adapter_moves_and_has_optimizer_state(alone) -> None:
    losses, (trainable, frozen), (moved, kept), opt_state = alone
    assert losses[-1] < losses[0]
    jax.tree.map(np.testing.assert_array_equal, frozen, kept)
    for one, two in zip(jax.tree.leaves(trainable), jax.tree.leaves(moved), strict=True):
        assert np.all(one != two)
    moments = [leaf for leaf in jax.tree.leaves(opt_state) if np.ndim(leaf)]
    assert _count(moments) == 2 * _count(trainable)
    assert _count(trainable) < 0.2 * _count(frozen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "layers"),
    [
        (MeshConfig(data=2, fsdp=2, tensor=2), Scanned()),
        (MeshConfig(data=2, fsdp=2, tensor=2), Unrolled()),
        (MeshConfig(data=2, fsdp=2, pipeline=2), Pipelined(num_micro_batches=1)),
    ],
    ids=["scanned", "unrolled, copies", "pipeline"],
)
def test_eight_devices_train_what_one_does(sizes, layers, alone) -> None:
    losses, _, (moved, _), _ = _train(Dora(rank=2), sizes, replace(CONFIG, layers=layers))
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    for one, two in zip(jax.tree.leaves(moved), jax.tree.leaves(alone[2][0]), strict=True):
        assert np.linalg.norm(one - two) <= 1e-5 * np.linalg.norm(two)


def test_frozen_weights_are_kept_and_copied_in_the_type_that_they_are_used_in() -> None:
    config = replace(CONFIG, compute_dtype="bfloat16", layers=Unrolled())
    split, whole = (
        abstract_mesh(MeshConfig(**sizes), 8) for sizes in ({"data": 2, "fsdp": 4}, {"data": 8})
    )
    plan, _ = _plan(config, Lora(rank=2), split)
    blocks = plan.abstract.frozen["blocks"]
    assert blocks["attention"]["query"]["kernel"].dtype == jnp.bfloat16
    assert plan.abstract.frozen["embedding"]["table"].dtype == jnp.bfloat16
    assert blocks["attention_norm"]["scale"].dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(plan.abstract.trainable))
    full, _ = _plan(config, NO_ADAPTER, split)
    copies = plan_copies(config, plan, GPU, 2, ALL)
    assert copies == plan_copies(config, full, GPU, 2, ALL)
    assert copies.has_layers
    # Of what is neither split nor rounded a copy would be the same array.
    plan, _ = _plan(config, Lora(rank=2), whole)
    assert plan_copies(config, plan, GPU, 2, ALL).num_bytes == 0


def test_adapters_are_updated_by_adamw_and_decay_as_matrices() -> None:
    mesh = single_device_mesh()
    plan, _ = _plan(CONFIG, Dora(rank=2), mesh)
    axes = plan.axes["blocks"]
    places = [*axes["attention"].values(), *axes["feed_forward"].values()]
    for own in places:
        assert is_matrix(own["lora_a"])
        assert is_matrix(own["lora_b"])
        assert not is_matrix(own["magnitude_change"])
        assert not any(map(is_orthogonalized, own.values()))
    assert len(places) == 7
    muon, _ = _plan(CONFIG, Dora(rank=2), mesh, lambda axes: Muon().build(SCHEDULE, axes))
    assert _count(muon.abstract.opt_state) >= 2 * _count(muon.abstract.trainable)


def test_a_step_computes_no_gradient_of_a_frozen_kernel() -> None:
    """Two products for each kernel, forward and backward, instead of three."""
    flops = {}
    for adapter in (NO_ADAPTER, Lora(rank=1)):
        mesh = single_device_mesh()
        config = replace(CONFIG, d_model=64, feed_forward=SwiGlu(hidden=256))
        plan, optimizer = _plan(config, adapter, mesh)
        model = config.build(VOCAB, adapter)
        loss = language_model_loss(model, jnp.ones(VOCAB, jnp.int32), LossConfig())
        step = compile_step(make_train_step(loss, optimizer), plan.abstract, mesh)
        with on_mesh(mesh, RULES):
            lowered = step.lower(plan.abstract, to_devices(_batch(0), mesh))
        flops[adapter] = lowered.compile().cost_analysis()["flops"]
    full, frozen = flops.values()
    assert frozen < 0.75 * full
