"""Rows of one batch, each with an adapter of its own, are rows of the merged models."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgpt.config import replace
from jaxgpt.inference.int8_weights import round_weights
from jaxgpt.model.adapted import join, merge, split
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layers.adapters import Lora
from jaxgpt.model.stacked_adapters import TrainedAdapter, stack_adapters
from tests.model.tiny_model import FAMILIES, VOCAB_SIZE, init, random_tokens

ADAPTERS = (
    Lora(rank=3, alpha=5.0, token_ids=(5, 2)),
    Lora(rank=4, alpha=3.0, rank_stabilized=True, targets=("value", "down", "output")),
    Lora(rank=1, alpha=2.0, token_ids=(2, 9)),
)
NUMBERS_B = np.array([2, 0, 1, 3, 1])
TOKENS_BT = random_tokens((len(NUMBERS_B), 9)).at[:, :3].set(jnp.array([2, 5, 9]))
# GPT-2's biases and learned positions, an untied head with a bound.
GPT2 = replace(FAMILIES["gpt2"], head=LanguageModelHead(tied=False, soft_cap=9.0))
QWEN3 = replace(FAMILIES["qwen3"], compute_dtype="bfloat16")


def _as_it_is(model, params):
    return params


@pytest.mark.parametrize(
    ("config", "store", "tolerance"),
    [(GPT2, _as_it_is, 1e-5), (QWEN3, _as_it_is, 0.03), (QWEN3, round_weights, 0.1)],
    ids=["float32", "bfloat16", "int8"],
)
def test_each_row_is_that_of_its_merged_model(config: GptConfig, store, tolerance: float) -> None:
    model, base = init(config)
    rng, trained, merged = np.random.default_rng(2), [], [base]
    for adapter in ADAPTERS:
        adapted = config.build(VOCAB_SIZE, adapter)
        shapes = jax.eval_shape(adapted.init, jax.random.key(0), TOKENS_BT)["params"]
        own, _ = split(meta.unbox(shapes), adapter.is_trainable)
        own = jax.tree.map(lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32), own)
        trained.append(TrainedAdapter(adapter, own))
        merged.append(merge(adapted, join(base, own)))
    of_rows, stacks = stack_adapters(trained, config.compute_dtype)
    rows = {
        key: jax.tree.map(lambda leaf, axis=int(key == "blocks"): leaf.take(NUMBERS_B, axis), part)
        for key, part in stacks.items()
    }
    of_rows = dataclasses.replace(of_rows, num_rows=len(NUMBERS_B))
    ours = _logits(config.build(VOCAB_SIZE, of_rows), join(store(model, base), rows))
    plain = _logits(model, base)
    for row, number in enumerate(NUMBERS_B):
        theirs = _logits(model, merged[number])[row]
        size = np.linalg.norm(theirs)
        assert np.linalg.norm(ours[row] - theirs) <= tolerance * size
        assert (np.linalg.norm(theirs - plain[row]) > 0.1 * size) == bool(number)


@functools.partial(jax.jit, static_argnums=0)
def _apply(model, params):
    return model.apply({"params": params}, TOKENS_BT)[0]


def _logits(model, params) -> np.ndarray:
    return np.asarray(_apply(model, params))[..., :VOCAB_SIZE]
