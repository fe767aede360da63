"""A profile of the step and of decoding reads like the code: operations have the parts' names."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.data.packing import make_rows
from jaxgpt.inference.sampling import SamplingConfig, sample
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh
from jaxgpt.training.chunked_loss import TokenChunks
from jaxgpt.training.loss import LossConfig, language_model_loss
from jaxgpt.training.optimizer import Muon, Optimizer
from jaxgpt.training.schedule import Constant
from jaxgpt.training.state import plan_state
from jaxgpt.training.step import compile_ahead, compile_step, make_train_step

VOCAB_SIZE = 16
CONFIG = GptConfig(
    num_layers=1, d_model=16, attention=GroupedQueryAttention(num_heads=2), vocab_multiple=8
)


def _scopes(program: Any) -> set[str]:
    """Return every part of the paths that a compiled program gives its operations."""
    paths = re.findall(r'op_name="([^"]*)"', program.as_text())
    return {part for path in paths for part in re.findall(r"[\w.]+", path)}


def _step_scopes(optimizer: Optimizer) -> set[str]:
    mesh = make_mesh(MeshConfig(data=1, fsdp=2), jax.devices()[:2])
    rules, model = ShardingRules(), CONFIG.build(VOCAB_SIZE)
    schedule = Constant(num_steps=2).build()
    plan, chain = plan_state(model, lambda axes: optimizer.build(schedule, axes), rules, mesh, None)
    config = LossConfig(logits=TokenChunks(num_tokens=8))
    loss = language_model_loss(model, jnp.ones(VOCAB_SIZE, jnp.int32), config)
    batch = make_rows(np.zeros((2, 9), np.int32), np.zeros((2, 9), bool), mask_documents=False)
    with on_mesh(mesh, rules):
        step = compile_step(make_train_step(loss, chain), plan.abstract, mesh)
        return _scopes(compile_ahead(step, plan.abstract, batch, 2, mesh))


def test_parts_of_the_step_that_are_no_modules_have_names() -> None:
    scopes = _step_scopes(Muon())
    parts = {"rotary", "attention_kernel", "loss_chunk", "logits", "cross_entropy"}
    parts |= {"gather_weights", "embedding_gradient", "gradient_norm", "clip_gradients"}
    parts |= {"optimizer", "adamw", "muon", "newton_schulz"}
    assert not parts - scopes
    # Modules have the names of their parameters.
    assert not {"query", "attention", "feed_forward", "down", "final_norm"} - scopes


def test_drawing_a_token_has_a_name() -> None:
    def draw(logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
        allowed_V = jnp.ones(VOCAB_SIZE, bool)
        return sample(logits_BV, SamplingConfig(), allowed_V, keys_B, jnp.zeros(1, jnp.int32))

    keys_B = jax.random.split(jax.random.key(0), 1)
    assert "sampling" in _scopes(jax.jit(draw).lower(jnp.ones((1, VOCAB_SIZE)), keys_B).compile())
