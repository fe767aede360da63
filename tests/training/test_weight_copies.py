"""Copies of weights for a step: which ones are made, and that they change no gradient."""

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
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
from jaxgpt.parallel.mesh import MeshConfig, abstract_mesh, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh, to_devices
from jaxgpt.runtime.target import CompileTarget
from jaxgpt.training.loss import LossConfig, language_model_loss
from jaxgpt.training.state import init_parameters, plan_state
from jaxgpt.training.step import accumulate
from jaxgpt.training.weight_copies import NO_COPIES, WeightCopies, plan_copies

VOCAB, ALL = 100, 10**9
CONFIG = GptConfig(
    num_layers=2,
    d_model=32,
    attention=GroupedQueryAttention(num_heads=4, num_kv_heads=2),
    feed_forward=SwiGlu(hidden=64),
    head=LanguageModelHead(tied=False),
    compute_dtype="bfloat16",
)
CPU = CompileTarget(platform="cpu")
GPU = CompileTarget(platform="gpu", compute_capability=9.0)


def _sgd(axes):
    return optax.sgd(0.1)


def _copies(
    config: GptConfig, mesh: MeshConfig, target: CompileTarget, parts: int, max_bytes: int
) -> WeightCopies:
    model = config.build(VOCAB)
    plan, _ = plan_state(model, _sgd, ShardingRules(), abstract_mesh(mesh, mesh.data * mesh.fsdp))
    return plan_copies(config, plan, target, parts, max_bytes)


def test_the_embedding_and_the_head_are_copied_first_and_layers_where_they_fit() -> None:
    split, whole = MeshConfig(data=2, fsdp=4), MeshConfig(data=8)
    shared = 2 * 2 * 128 * 32
    layers = 2 * 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64)
    assert _copies(CONFIG, split, GPU, 2, ALL).num_bytes == shared + layers
    assert _copies(CONFIG, split, GPU, 2, shared + layers - 1).num_bytes == shared
    assert _copies(CONFIG, split, GPU, 2, shared - 1).num_bytes == 0
    # Layers of a single micro-batch are collected one by one, while others compute.
    assert _copies(CONFIG, split, GPU, 1, ALL).num_bytes == shared
    # What no device has to collect is copied to be rounded and cut once, on a GPU.
    assert _copies(CONFIG, whole, GPU, 2, ALL).num_bytes == layers
    assert _copies(CONFIG, whole, CPU, 2, ALL).num_bytes == 0
    for other in (
        replace(CONFIG, layers=Scanned()),
        replace(CONFIG, feed_forward=MixtureOfExperts(num_experts=4, expert=SwiGlu(hidden=32))),
    ):
        assert _copies(other, split, GPU, 2, ALL).num_bytes == shared


def test_weights_whose_copies_do_not_fit_are_named(caplog) -> None:
    split = MeshConfig(data=2, fsdp=4)
    with caplog.at_level("INFO"):
        _copies(CONFIG, split, GPU, 2, 0)
        _copies(CONFIG, split, GPU, 2, ALL)
    assert not caplog.records, "nothing is left out that was to be copied"
    limit = 20_011  # Of no other test: each message is logged once.
    with caplog.at_level("INFO"):
        _copies(CONFIG, split, GPU, 2, limit)
    (record,) = caplog.records
    assert "weights of all layers" in record.getMessage()
    assert f"runtime.max_copied_bytes is {limit}" in record.getMessage()


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_copies_change_no_gradient(tied: bool) -> None:
    config = replace(CONFIG, head=LanguageModelHead(tied=tied), compute_dtype="bfloat16")
    model, rules = config.build(VOCAB), ShardingRules()
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    plan, _ = plan_state(model, _sgd, rules, mesh)
    loss = language_model_loss(model, jnp.ones(VOCAB, jnp.int32), LossConfig())
    tokens = np.random.default_rng(0).integers(3, VOCAB, (16, 25))
    copies = plan_copies(config, plan, CPU, 2, ALL)
    assert copies.has_layers

    def objective(params, batch, rng):
        sums = loss(params, batch, rng)
        return sums.objective, sums

    def gradients(params, batch, key):
        return [
            accumulate(objective, params, batch, key, 2, each)[0] for each in (copies, NO_COPIES)
        ]

    placed = jax.tree.map(lambda leaf: leaf.sharding, plan.abstract.trainable)
    with on_mesh(mesh, rules):
        params = init_parameters(model, rules, mesh, seed=0)
        batch = to_devices(make_rows(tokens, np.zeros(tokens.shape, bool)), mesh)
        run = jax.jit(gradients, out_shardings=[placed, placed])
        found, expected = run(params, batch, jax.random.key(0))
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(one - two) <= 1e-6 * np.linalg.norm(two)
