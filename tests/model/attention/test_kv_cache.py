"""Decoding with a cache equals the full forward pass, for every variant and any portions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.errors import ConfigError
from jaxgpt.model.gpt import make_cache
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.layers.positions import Learned
from tests.model import tiny_model
from tests.model.tiny_model import FAMILIES, PLAIN, VARIANTS

T = 12


def make_step(model, params):
    """A jitted step whose cache is donated."""

    @functools.partial(jax.jit, donate_argnums=0)
    def step(cache, tokens, segment_ids=None):
        logits, cache = model.apply({"params": params}, tokens, segment_ids, cache=cache)
        return logits, cache

    return step


# A loop over layers compiles in half the time. What layers write into the cache differs without
# one by the pattern of windows, and by what a layer is made of.
SCANNED = {
    f"{name}, scanned": replace(config, layers=Scanned()) for name, config in VARIANTS.items()
}
UNROLLED = {
    name: VARIANTS[name]
    for name in ("gpt2", "gemma2", "three windows over four layers", "experts, dropless")
}


@pytest.mark.parametrize("config", (UNROLLED | SCANNED).values(), ids=UNROLLED | SCANNED)
def test_prefill_in_pieces_then_one_by_one_equals_one_pass(config):
    model, params = tiny_model.init(config, scale=0.1)
    tokens = tiny_model.random_tokens((2, T))
    expected, none = jax.jit(model.apply)({"params": params}, tokens)
    assert none is None
    step = make_step(model, params)
    cache = make_cache(model.config, 2, T + 2)
    outputs = []
    for start, stop in [(0, 4), (4, 8), *((t, t + 1) for t in range(8, T))]:
        logits, cache = step(cache, tokens[:, start:stop])
        outputs.append(logits)
    found = jnp.concatenate(outputs, axis=1)[..., : tiny_model.VOCAB_SIZE]
    np.testing.assert_allclose(found, expected[..., : tiny_model.VOCAB_SIZE], atol=1e-5, rtol=0)
    np.testing.assert_array_equal(cache.lengths_B, [T, T])


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_rows_of_different_lengths_equal_each_row_alone(config):
    # A loop over layers compiles faster; the test above has both.
    model, params = tiny_model.init(replace(config, layers=Scanned()), scale=0.1)
    lengths, more = np.array([7, 3, 5]), 4
    tokens = tiny_model.random_tokens((3, 7 + more))
    step = make_step(model, params)

    valid = jnp.asarray(np.arange(7)[None] < lengths[:, None], jnp.int32)
    prompt = jnp.where(valid == 1, tokens[:, :7], 49)
    logits, cache = step(make_cache(model.config, 3, 16), prompt, valid)
    found = [[logits[row, length - 1]] for row, length in enumerate(lengths)]
    for i in range(more - 1):
        following = tokens[np.arange(3), lengths + i][:, None]
        logits, cache = step(cache, following)
        for row in range(3):
            found[row].append(logits[row, 0])

    expected, _ = jax.jit(model.apply)({"params": params}, tokens)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(
            np.stack(found[row])[:, : tiny_model.VOCAB_SIZE],
            expected[row, length - 1 : length + more - 1, : tiny_model.VOCAB_SIZE],
            atol=1e-5,
            rtol=0,
        )
    np.testing.assert_array_equal(cache.lengths_B, lengths + more - 1)


def test_a_row_without_valid_tokens_is_left_alone():
    model, params = tiny_model.init(PLAIN)
    tokens = tiny_model.random_tokens((2, 5))
    step = make_step(model, params)
    _, cache = step(make_cache(PLAIN, 2, 8), tokens)
    kept = jax.tree.map(np.asarray, cache)
    segment_ids = jnp.asarray([[0], [1]])
    logits, cache = step(cache, tokens[:, :1], segment_ids)
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(cache.lengths_B, [5, 6])
    for (k_BKCH,), (kept_BKCH,) in zip(cache.k_BKCH, kept.k_BKCH, strict=True):
        np.testing.assert_array_equal(k_BKCH[0], kept_BKCH[0])
        assert k_BKCH[1, :, 5].any()


def test_tokens_beyond_the_last_slot_are_dropped():
    model, params = tiny_model.init(PLAIN)
    apply = jax.jit(model.apply)
    tokens = tiny_model.random_tokens((1, 6))
    _, full = apply({"params": params}, tokens[:, :4], cache=make_cache(PLAIN, 1, 4))
    _, over = apply({"params": params}, tokens, cache=make_cache(PLAIN, 1, 4))
    np.testing.assert_array_equal(over.lengths_B, [4])
    close = functools.partial(np.testing.assert_allclose, atol=1e-6)
    jax.tree.map(close, over.k_BKCH, full.k_BKCH)
    _, again = apply({"params": params}, tokens, cache=over)
    jax.tree.map(np.testing.assert_array_equal, again.k_BKCH, over.k_BKCH)


@pytest.mark.optimized
def test_keys_behind_the_length_are_never_seen():
    model, params = tiny_model.init(PLAIN)
    apply = jax.jit(model.apply)
    tokens = tiny_model.random_tokens((1, 3))
    clean = make_cache(PLAIN, 1, 8)
    dirty = clean.replace(
        k_BKCH=jax.tree.map(lambda k_BKCH: k_BKCH + 7.0, clean.k_BKCH),
        v_BKCH=jax.tree.map(lambda v_BKCH: v_BKCH - 3.0, clean.v_BKCH),
    )
    expected, _ = apply({"params": params}, tokens, cache=clean)
    found, _ = apply({"params": params}, tokens, cache=dirty)
    np.testing.assert_array_equal(found, expected)


def test_the_cache_takes_the_dtype_asked_for():
    config = replace(PLAIN, compute_dtype="bfloat16")
    assert make_cache(config, 1, 4).read(0)[0].dtype == jnp.bfloat16
    cache = make_cache(config, 1, 4, dtype="float32")
    assert cache.read(0)[1].dtype == jnp.float32
    model, params = tiny_model.init(config)
    apply = jax.jit(model.apply)
    _, cache = apply({"params": params}, tiny_model.random_tokens((1, 2)), cache=cache)
    assert cache.read(0)[1].dtype == jnp.float32


def test_a_cache_longer_than_the_learned_positions_is_refused():
    with pytest.raises(ConfigError, match="a sequence of 9 tokens needs more than the 8 learned"):
        make_cache(replace(PLAIN, position=Learned(max_length=8)), 1, 9)


@pytest.mark.parametrize("layers", [PLAIN.layers, Scanned()], ids=["unrolled", "scanned"])
def test_every_layer_has_an_array_of_its_own(layers):
    cache = make_cache(replace(PLAIN, layers=layers), 1, 4)
    head_dim = PLAIN.attention.resolve_head_dim(PLAIN.d_model)
    shapes = [k_BKCH.shape for (k_BKCH,) in cache.k_BKCH]
    assert shapes == [(1, PLAIN.attention.kv_heads, 4, head_dim)] * PLAIN.num_layers
