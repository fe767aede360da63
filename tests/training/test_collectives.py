"""What the compiled step exchanges and keeps under fsdp, read from XLA's own account of it."""

import math
import re

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxgpt.batch import Batch
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.remat import FullRemat
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, batch_sharding, on_mesh
from jaxgpt.training.loss import LossConfig, language_model_loss
from jaxgpt.training.optimizer import AdamW
from jaxgpt.training.state import plan_state
from jaxgpt.training.step import compile_step, make_train_step

VOCAB, WIDTH, ROWS, TOKENS = 256, 128, 8, 24


def _compile(num_layers: int, config: MeshConfig):
    """The step of a model whose weights outweigh its activations, without any array."""
    model = GptConfig(
        num_layers=num_layers,
        d_model=WIDTH,
        attention=GroupedQueryAttention(num_heads=8, head_dim=16),
        feed_forward=SwiGlu(hidden=512),
        layers=Scanned(),
        remat=FullRemat(),
    ).build(VOCAB)
    mesh, rules = make_mesh(config), ShardingRules()
    plan, optimizer = plan_state(
        model, lambda axes: AdamW().build(optax.constant_schedule(1e-3), axes), rules, mesh
    )
    loss = language_model_loss(model, jnp.ones(VOCAB, jnp.int32), LossConfig())
    ids, weights = (
        jax.ShapeDtypeStruct((ROWS, TOKENS), dtype, sharding=batch_sharding(mesh))
        for dtype in (jnp.int32, jnp.float32)
    )
    with on_mesh(mesh, rules):
        step = compile_step(make_train_step(loss, optimizer), plan.abstract, mesh)
        compiled = step.lower(plan.abstract, Batch(ids, ids, ids, ids, weights)).compile()
    layer = (
        4
        * sum(leaf.size for leaf in jax.tree.leaves(plan.abstract.trainable["blocks"]))
        // num_layers
    )
    return compiled, layer


def _collectives(program: str) -> dict[str, list[int]]:
    """Number of elements of each array that each kind of collective returns."""
    found: dict[str, list[int]] = {}
    pattern = r"= (\([^()]*\)|\S+) (all-gather|all-reduce|reduce-scatter|collective-permute)\("
    for shapes, name in re.findall(pattern, program):
        sizes = [
            math.prod(int(n) for n in dims.split(",") if n)
            for dims in re.findall(r"\w+\[([\d,]*)\]", shapes)
        ]
        found.setdefault(name, []).extend(sizes)
    return found


@pytest.fixture(scope="module")
def shallow():
    return _compile(2, MeshConfig(data=1, fsdp=8))


def test_fsdp_gathers_weights_not_activations_and_adds_gradients_up(shallow) -> None:
    found = _collectives(shallow[0].as_text())
    gathered = found["all-gather"]
    # The largest kernel of one layer, never of two; and not the rows of all devices.
    assert max(gathered) == WIDTH * 512
    assert ROWS * TOKENS * WIDTH not in gathered
    # On a CPU, a reduce-scatter is an all-reduce and a slice.
    summed = found.get("reduce-scatter", []) + found["all-reduce"]
    assert WIDTH * 512 in summed or WIDTH * 512 // 8 in summed


@pytest.mark.slow
def test_no_layers_weights_stay_gathered(shallow) -> None:
    deep, layer = _compile(8, MeshConfig(data=1, fsdp=8))
    growth = (
        deep.memory_analysis().temp_size_in_bytes - shallow[0].memory_analysis().temp_size_in_bytes
    )
    # Of each further layer: its eighth of gradients, updates and copies; and its input.
    assert growth / 6 < layer / 2
    kept = deep.memory_analysis().argument_size_in_bytes
    assert kept - shallow[0].memory_analysis().argument_size_in_bytes < 6 * 3 * layer / 8 * 1.05
