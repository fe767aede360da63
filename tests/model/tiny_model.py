"""Tiny models for the tests of jaxgpt.model: one per published family, and one per variant."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.config import replace
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.cost import abstract_params
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layers.feed_forward import GeGlu, Gelu, Relu2, SwiGlu
from jaxgpt.model.layers.norms import LayerNorm, RmsNorm, Sandwich
from jaxgpt.model.layers.positions import Learned, NoPosition, Rotary, Sinusoidal
from jaxgpt.model.layers.rope_scaling import LinearScaling, Llama3, Yarn
from jaxgpt.model.moe.dispatch import Capacity, Dropless
from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
from jaxgpt.model.moe.router import SoftmaxGates

VOCAB_SIZE = 50

PLAIN = GptConfig(
    num_layers=2,
    d_model=32,
    attention=GroupedQueryAttention(num_heads=4),
    feed_forward=SwiGlu(hidden=48),
    vocab_multiple=16,
)

FAMILIES = {
    "gpt2": replace(
        PLAIN,
        position=Learned(max_length=32),
        attention=GroupedQueryAttention(num_heads=4, qkv_bias=True, output_bias=True),
        feed_forward=Gelu(use_bias=True),
        norm=LayerNorm(),
    ),
    "llama3": replace(
        PLAIN,
        position=Rotary(scaling=Llama3(factor=4.0, original_length=8)),
        attention=GroupedQueryAttention(num_heads=4, num_kv_heads=2),
        head=LanguageModelHead(tied=False),
    ),
    "mistral": replace(
        PLAIN,
        attention=GroupedQueryAttention(num_heads=4, num_kv_heads=2, windows=(5,)),
        head=LanguageModelHead(tied=False),
    ),
    "qwen2": replace(PLAIN, attention=GroupedQueryAttention(num_heads=4, qkv_bias=True)),
    "qwen3": replace(
        PLAIN,
        attention=GroupedQueryAttention(num_heads=4, num_kv_heads=1, head_dim=6, qk_norm=RmsNorm()),
    ),
    "gemma2": replace(
        PLAIN,
        num_layers=4,
        attention=GroupedQueryAttention(
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            windows=(4, None),
            soft_cap=5.0,
            query_scale=0.3,
        ),
        feed_forward=GeGlu(hidden=40),
        norm=Sandwich(norm=RmsNorm(offset=1.0)),
        head=LanguageModelHead(soft_cap=3.0),
        scale_embedding=True,
    ),
}

VARIANTS = FAMILIES | {
    "no position": replace(PLAIN, position=NoPosition()),
    "sinusoidal": replace(PLAIN, position=Sinusoidal()),
    "linear scaling": replace(PLAIN, position=Rotary(scaling=LinearScaling(factor=3.0))),
    "yarn": replace(PLAIN, position=Rotary(scaling=Yarn(factor=4.0, original_length=8))),
    "relu2, no norm scale": replace(PLAIN, feed_forward=Relu2(), norm=RmsNorm(learned_scale=False)),
    "exact gelu, multi-query": replace(
        PLAIN,
        feed_forward=Gelu(exact=True),
        norm=LayerNorm(use_bias=False),
        attention=GroupedQueryAttention(num_heads=4, num_kv_heads=1),
    ),
    "three windows over four layers": replace(
        PLAIN,
        num_layers=4,
        attention=GroupedQueryAttention(num_heads=4, windows=(3, None, 2)),
    ),
    "experts, dropless": replace(
        PLAIN,
        feed_forward=MixtureOfExperts(
            num_experts=4, expert=SwiGlu(hidden=16), dispatch=Dropless(block_size=4)
        ),
    ),
    "experts, capacity": replace(
        PLAIN,
        feed_forward=MixtureOfExperts(
            num_experts=4,
            expert=Gelu(hidden=16, use_bias=True),
            shared=SwiGlu(hidden=24),
            gates=SoftmaxGates(),
            dispatch=Capacity(factor=2.0),  # E / K: nothing is ever dropped.
        ),
    ),
}


def init(config: GptConfig, seed: int = 0, scale: float = 0.3) -> tuple[Gpt, dict]:
    """Build a model and random parameters, biases and scales included; compiles nothing."""
    model = config.build(VOCAB_SIZE)
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = scale * rng.standard_normal(leaf.shape)
        if path[-1].key == "scale":
            values = values + 1.0
        return jnp.asarray(values, leaf.dtype)

    return model, jax.tree.map_with_path(draw, abstract_params(config, VOCAB_SIZE))


def random_tokens(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    """Uniform ids below the vocabulary's size."""
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCAB_SIZE, shape), jnp.int32)
