"""A cache in 8 bits: attention with it is attention to keys and values that are rounded like it."""

import functools

import jax
import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.model.attention.cached_blocks import CachedBlocks
from jaxgpt.model.attention.int8_cache import AsFromInt8Cache, empty_int8_cache
from jaxgpt.model.gpt import GptConfig, make_cache
from tests.model import tiny_model
from tests.model.tiny_model import FAMILIES, PLAIN


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "qwen3"])
def test_prefill_in_pieces_then_one_by_one_equals_one_pass_with_rounded_keys(name: str) -> None:
    config = FAMILIES[name]
    model, params = tiny_model.init(config, scale=0.1)
    tokens = tiny_model.random_tokens((2, 10))
    rounding = replace(config, attention=replace(config.attention, kernel=AsFromInt8Cache()))
    apply = jax.jit(rounding.build(tiny_model.VOCAB_SIZE).apply)
    expected, _ = apply({"params": params}, tokens)
    exact, _ = jax.jit(model.apply)({"params": params}, tokens)
    found = read_in_pieces(config, params, tokens, [(0, 5), (5, 8), (8, 9), (9, 10)])
    number = tiny_model.VOCAB_SIZE
    np.testing.assert_allclose(found[..., :number], expected[..., :number], atol=1e-5, rtol=0)
    error = np.abs(expected - exact)[..., :number].max()
    assert 1e-5 < error < 0.05 * np.abs(exact[..., :number]).max()


def test_blocks_of_it_are_restored_one_by_one() -> None:
    config = replace(PLAIN, attention=replace(PLAIN.attention, num_kv_heads=2))
    _, params = tiny_model.init(config, scale=0.1)
    tokens = tiny_model.random_tokens((2, 10))
    pieces = [(0, 6), *((start, start + 1) for start in range(6, 10))]
    expected = read_in_pieces(config, params, tokens, pieces)
    blocks = replace(config, attention=replace(config.attention, kernel=CachedBlocks(block=4)))
    found = read_in_pieces(blocks, params, tokens, pieces)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def read_in_pieces(
    config: GptConfig, params: dict, tokens: jax.Array, pieces: list[tuple[int, int]]
) -> np.ndarray:
    model = config.build(tiny_model.VOCAB_SIZE)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(cache, tokens):
        logits, cache = model.apply({"params": params}, tokens, cache=cache)
        return logits, cache

    cache = make_cache(config, 2, 12, make=empty_int8_cache)
    outputs = []
    for start, stop in pieces:
        logits, cache = step(cache, tokens[:, start:stop])
        outputs.append(logits)
    np.testing.assert_array_equal(cache.lengths_B, [10, 10])
    return np.concatenate(outputs, axis=1)


def test_it_takes_a_byte_a_number_and_a_scale_a_head_and_is_read_in_the_type_asked_for() -> None:
    config = replace(PLAIN, compute_dtype="bfloat16")
    cache = make_cache(config, 3, 16, make=empty_int8_cache)
    numbers = 2 * config.num_layers * 3 * 16 * config.d_model
    scales = numbers // config.attention.resolve_head_dim(config.d_model)
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(cache)) - cache.lengths_B.nbytes
    assert num_bytes == numbers + 4 * scales
    assert cache.max_length == 16
    assert cache.read(0)[0].dtype == "bfloat16"
