"""Experts on any mesh: the training of one device, the bytes and the collectives expected.

Axes: B rows, T tokens.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.batch import Batch
from jaxgpt.config import replace
from jaxgpt.data.packing import make_rows
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.moe.dispatch import Capacity, Dropless
from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
from jaxgpt.model.pipeline import Pipelined
from jaxgpt.parallel.mesh import MeshConfig, make_mesh, single_device_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh, to_devices
from jaxgpt.runtime.target import CompileTarget, compiling_for
from jaxgpt.training.loss import LossConfig, language_model_loss
from jaxgpt.training.optimizer import AdamW, Muon
from jaxgpt.training.state import init_parameters, init_state, plan_state
from jaxgpt.training.step import StepMetrics, compile_step, make_train_step

VOCAB = 50
MOE = MixtureOfExperts(
    num_experts=8,
    expert=SwiGlu(hidden=16),
    dispatch=Dropless(block_size=16),
    load_balance=0.1,
    router_z_loss=0.01,
)
CONFIG = GptConfig(
    num_layers=2,
    d_model=16,
    attention=GroupedQueryAttention(num_heads=2),
    feed_forward=MOE,
    layers=Scanned(),
    vocab_multiple=16,
)
# A factor at which tokens are dropped: on every mesh the same ones.
CAPACITY = replace(CONFIG, feed_forward=replace(MOE, dispatch=Capacity(factor=0.8)))


@dataclasses.dataclass
class Training:
    losses: list[float]
    gradients: Any
    state: Any
    metrics: StepMetrics
    program: str


def batch(seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    tokens_BT = rng.integers(3, VOCAB, (16, 17))
    rows = make_rows(tokens_BT, rng.random(tokens_BT.shape) < 0.1)
    # Some rows end in padding.
    valid_BT = np.arange(16)[None, :] < rng.integers(8, 17, 16)[:, None]
    return rows._replace(
        segment_ids_BT=rows.segment_ids_BT * valid_BT,
        loss_weights_BT=rows.loss_weights_BT * valid_BT,
    )


def keep_gradients() -> optax.GradientTransformation:
    """Changes nothing; its state is the last gradient."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda grads, state, _: (grads, grads)
    )


def train(config, mesh, num_steps=4, build=None, parts=1) -> Training:
    build = build or (lambda axes: optax.chain(keep_gradients(), optax.sgd(0.5)))
    model, rules = config.build(VOCAB), ShardingRules()
    plan, optimizer = plan_state(model, build, rules, mesh)
    loss = language_model_loss(model, jnp.ones(VOCAB, jnp.int32), LossConfig())
    step = compile_step(make_train_step(loss, optimizer, parts), plan.abstract, mesh)
    with on_mesh(mesh, rules):
        params = init_parameters(model, rules, mesh, seed=0)
        state = init_state(params, optimizer, plan, seed=0)
        program = step.lower(state, to_devices(batch(0), mesh)).compile()
        losses, gradients = [], None
        for seed in range(num_steps):
            state, metrics = program(state, to_devices(batch(seed), mesh))
            losses.append(float(metrics.loss))
            if gradients is None:
                gradients = jax.device_get(state.opt_state[0])
    return Training(losses, gradients, jax.device_get(state), metrics, program.as_text())


@pytest.fixture(scope="module")
def alone() -> dict[str, Training]:
    mesh = single_device_mesh()
    return {"dropless": train(CONFIG, mesh), "capacity": train(CAPACITY, mesh)}


def assert_equal_in_norm(found, expected) -> None:
    for path, theirs in jax.tree.leaves_with_path(expected):
        ours = found
        for key in path:
            ours = ours[key.key]
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert error <= 1e-5, (jax.tree_util.keystr(path), error)


# Each way of dispatch with each axis that it meets, two of them in a mesh.
MESHES = [
    (MeshConfig(data=2, expert=4), "dropless"),
    *(
        pytest.param(MeshConfig(**sizes), dispatch, marks=pytest.mark.slow)
        for sizes, dispatch in [
            ({"data": 1, "expert": 8}, "capacity"),
            ({"data": 1, "fsdp": 2, "expert": 2, "context": 2}, "capacity"),
            ({"data": 1, "fsdp": 2, "expert": 2, "tensor": 2}, "dropless"),
            ({"data": 1, "expert": 4, "pipeline": 2}, "dropless"),
            ({"data": 8}, "dropless"),
            ({"data": 1, "fsdp": 2, "expert": 2, "context": 2}, "groups"),
            ({"data": 1, "expert": 2, "tensor": 2, "pipeline": 2}, "groups"),
        ]
    ),
]


@pytest.mark.parametrize(("sizes", "dispatch"), MESHES, ids=str)
def test_every_mesh_trains_what_one_device_does(sizes, dispatch, alone) -> None:
    expected = alone["capacity" if dispatch == "capacity" else "dropless"]
    config = CAPACITY if dispatch == "capacity" else CONFIG
    if sizes.pipeline > 1:
        config = replace(config, layers=Pipelined(num_micro_batches=2))
    # As on a GPU, where experts are kernels of grouped products.
    target = CompileTarget(platform="cpu", interprets_kernels=dispatch == "groups")
    with compiling_for(target):
        found = train(config, make_mesh(sizes))
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    assert_equal_in_norm(found.gradients, expected.gradients)
    assert_equal_in_norm(found.state.trainable, expected.state.trainable)
    for name, value in expected.metrics.routing.items():
        np.testing.assert_allclose(found.metrics.routing[name], value, rtol=1e-5)
    if sizes.expert > 1 and sizes.pipeline == 1:
        wanted = "all-to-all(" if dispatch == "capacity" else "reduce-scatter("
        assert wanted in found.program


def test_tokens_are_dropped_and_counted(alone) -> None:
    assert 0.05 < alone["capacity"].metrics.routing["dropped"] < 0.6
    assert alone["dropless"].metrics.routing["dropped"] == 0
    assert len(alone["dropless"].metrics.routing["load"]) == 8
    np.testing.assert_allclose(np.mean(alone["dropless"].metrics.routing["load"]), 1, rtol=1e-6)


@pytest.mark.slow
def test_micro_batches_change_neither_objective_nor_gradient(alone) -> None:
    """Nor who is dropped: a micro-batch is so many whole rows."""
    found = train(CAPACITY, single_device_mesh(), num_steps=1, parts=4)
    assert found.losses[0] == pytest.approx(alone["capacity"].losses[0], rel=1e-6)
    assert_equal_in_norm(found.gradients, alone["capacity"].gradients)


@pytest.mark.slow
def test_auxiliary_losses_reach_the_router_and_even_the_load() -> None:
    """With a router that loves one expert, the weight of the losses decides where it goes."""
    mesh = single_device_mesh()
    shares = {}
    for weight in (0.0, 1.0):
        moe = replace(MOE, load_balance=weight, router_z_loss=0.0)
        training = train(replace(CONFIG, feed_forward=moe), mesh, num_steps=30)
        shares[weight] = training.metrics.routing["load_balance"]
    assert shares[1.0] < 1.02 < shares[0.0]


def _keep_and(optimizer):
    """A builder of an optimizer that keeps gradients as well."""
    return lambda axes: optax.chain(
        keep_gradients(), optimizer.build(optax.constant_schedule(1e-3), axes)
    )


@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_an_experts_optimizer_state_lies_where_the_expert_does(optimizer) -> None:
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, expert=4))
    plan, _ = plan_state(CONFIG.build(VOCAB), _keep_and(optimizer), ShardingRules(), mesh)
    of_experts = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(
            (plan.abstract.trainable, plan.abstract.opt_state)
        )
        if "experts" in jax.tree_util.keystr(path)
    ]
    # Three kernels: themselves, the kept gradient, and one moment of Muon or two of Adam.
    assert len(of_experts) == 3 * {AdamW: 4, Muon: 3}[type(optimizer)]
    for leaf in of_experts:
        here = np.prod(leaf.sharding.shard_shape(leaf.shape))
        assert here * 8 == np.prod(leaf.shape)


@pytest.mark.slow
def test_muon_and_the_adam_within_it_train_experts_as_on_one_device() -> None:
    """Experts are orthogonalized, norms and the embedding are Adam's."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, expert=4))
    found = train(CONFIG, mesh, num_steps=3, build=_keep_and(Muon()))
    alone = train(CONFIG, single_device_mesh(), num_steps=3, build=_keep_and(Muon()))
    np.testing.assert_allclose(found.losses, alone.losses, rtol=1e-5)
