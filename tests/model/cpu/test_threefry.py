"""Random numbers in one pass are JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.model.cpu.threefry import MAX_SEED, in_one_pass, key_of_seed

_SHAPES = st.lists(st.integers(0, 7), max_size=4).map(tuple)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), shape=_SHAPES, width=st.sampled_from([8, 16, 32]))
def test_bits_are_those_of_the_key(seed: int, shape: tuple[int, ...], width: int) -> None:
    key = jax.random.key(seed)
    dtype = jnp.dtype(f"uint{width}")
    np.testing.assert_array_equal(
        jax.random.bits(in_one_pass(key), shape, dtype), jax.random.bits(key, shape, dtype)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_normal_numbers_of_every_layer_are_those_of_the_keys(dtype: str) -> None:
    def layers(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 3)
        return jax.vmap(lambda one: jax.random.normal(one, (5, 130, 3), jnp.dtype(dtype)))(keys)

    key = jax.random.key(7)
    np.testing.assert_array_equal(jax.jit(layers)(in_one_pass(key)), jax.jit(layers)(key))


def test_keys_that_follow_are_the_same() -> None:
    key = jax.random.key(3)
    for derive in (lambda one: jax.random.fold_in(one, 11), lambda one: jax.random.split(one)[1]):
        np.testing.assert_array_equal(
            jax.random.key_data(derive(in_one_pass(key))), jax.random.key_data(derive(key))
        )


def test_without_partitionable_threefry_it_is_jaxs_other_one() -> None:
    key = jax.random.key(5)
    with jax.threefry_partitionable(False):
        other = jax.random.bits(key, (9, 5))
        np.testing.assert_array_equal(jax.random.bits(in_one_pass(key), (9, 5)), other)
    assert not np.array_equal(jax.random.bits(in_one_pass(key), (9, 5)), other)


def test_a_key_of_another_kind_stays_as_it_is() -> None:
    key = jax.random.key(0, impl="rbg")
    assert in_one_pass(key) is key


def test_it_keeps_no_array_beside_the_result() -> None:
    def fill(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (512, 512))

    def workspace_bytes(key: jax.Array) -> int:
        return jax.jit(fill).lower(key).compile().memory_analysis().temp_size_in_bytes

    key = jax.random.key(0)
    assert workspace_bytes(in_one_pass(key)) < 1 << 16 < workspace_bytes(key)


@settings(max_examples=20, deadline=None)
@given(low=st.integers(0, 2**32 - 1), highs=st.sets(st.integers(0, 2**32 - 1), min_size=3))
def test_seeds_that_are_equal_modulo_2_to_the_32_have_different_keys(low: int, highs: set[int]):
    keys = {tuple(jax.random.key_data(key_of_seed(low + (high << 32))).tolist()) for high in highs}
    assert len(keys) == len(highs)


def test_a_seed_of_32_bits_has_the_key_that_jax_gives_it() -> None:
    for seed in (0, 1, 2**31, 2**32 - 1):
        assert key_of_seed(seed) == jax.random.key(seed)
    assert key_of_seed(MAX_SEED) != key_of_seed(2**32 - 1)
