"""Counts from a config equal counts of the real thing."""

import jax
import jax.numpy as jnp
import pytest

from jaxgpt.config import replace
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.cost import (
    abstract_params,
    flops_per_token,
    kv_bytes_per_token,
    num_active_parameters,
    num_matmul_parameters,
    num_parameters,
)
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.heads import ClassificationHead, LanguageModelHead
from jaxgpt.model.layers.feed_forward import Gelu, SwiGlu
from jaxgpt.model.layers.norms import LayerNorm
from jaxgpt.model.layers.positions import Learned
from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
from tests.model.tiny_model import PLAIN, VARIANTS, VOCAB_SIZE

GPT2 = GptConfig(
    position=Learned(max_length=1024),
    attention=GroupedQueryAttention(num_heads=12, qkv_bias=True, output_bias=True),
    feed_forward=Gelu(use_bias=True),
    norm=LayerNorm(),
    vocab_multiple=1,
)
LLAMA3_8B = GptConfig(
    num_layers=32,
    d_model=4096,
    attention=GroupedQueryAttention(num_heads=32, num_kv_heads=8),
    feed_forward=SwiGlu(hidden=14336),
    head=LanguageModelHead(tied=False),
    compute_dtype="bfloat16",
)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_parameters_are_those_of_the_model(config):
    """The count traces a loop over layers; the model as configured has the same tree."""
    model = config.build(VOCAB_SIZE)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 3), jnp.int32))
    leaves = jax.tree.leaves(variables)
    assert num_parameters(config, VOCAB_SIZE) == sum(leaf.size for leaf in leaves)
    assert jax.tree.leaves(abstract_params(config, VOCAB_SIZE)) == leaves


def test_published_sizes():
    assert num_parameters(GPT2, 50257) == 124_439_808
    assert num_parameters(LLAMA3_8B, 128_256) == 8_030_261_248


def test_mixtral_8x7b():
    """46.7 billion parameters, of which 12.9 billion for each token (arXiv:2401.04088, table 1)."""
    mixtral = replace(
        LLAMA3_8B, feed_forward=MixtureOfExperts(expert=SwiGlu(hidden=14336)), vocab_multiple=1
    )
    size, active = (count(mixtral, 32_000) for count in (num_parameters, num_active_parameters))
    assert size == 46_702_792_704
    assert size - active == 32 * 6 * 3 * 4096 * 14336
    assert round(active / 1e9, 1) == 12.9
    # Of what a token goes through, all but the embedding and the norms are matrices.
    rest = 32_000 * 4096 + (2 * 32 + 1) * 4096
    assert num_matmul_parameters(mixtral, 32_000) == active - rest
    assert flops_per_token(mixtral, 32_000, 1) == 6 * (active - rest) + 12 * 32 * 4096


def test_operations_of_gpt2():
    """6 N + 12 L D T with N the matrices and the tied head, as in nanoGPT's estimate of MFU."""
    matrices = 12 * (4 * 768**2 + 8 * 768**2) + 50257 * 768
    assert num_matmul_parameters(GPT2, 50257) == matrices
    assert flops_per_token(GPT2, 50257, 1024) == 6 * matrices + 12 * 12 * 768 * 1024


def test_windows_and_heads_change_the_operations():
    base = flops_per_token(PLAIN, VOCAB_SIZE, 64)
    windowed = replace(PLAIN, attention=GroupedQueryAttention(num_heads=4, windows=(None, 16)))
    assert base - flops_per_token(windowed, VOCAB_SIZE, 64) == 12 * 32 * (64 - 16)
    assert flops_per_token(windowed, VOCAB_SIZE, 8) == flops_per_token(PLAIN, VOCAB_SIZE, 8)
    classes = replace(PLAIN, head=ClassificationHead(num_classes=3))
    assert base - flops_per_token(classes, VOCAB_SIZE, 64) == 6 * 32 * (64 - 3)


def test_bytes_of_the_cache():
    assert kv_bytes_per_token(LLAMA3_8B) == 2 * 32 * 8 * 128 * 2
    assert kv_bytes_per_token(PLAIN) == 2 * 2 * 32 * 4
