"""Random numbers in one pass over the array that they fill: JAX's own, bit for bit.

On a CPU JAX computes threefry (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
in a loop of five turns that reads and writes arrays of the whole size. Unrolled, the twenty rounds
of a number and its conversion are one loop over elements without temporary arrays.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import random as jax_random

_THREEFRY: Any = jax_random.threefry_prng_impl
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_WIDTHS = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}


MAX_SEED = 2**64 - 1
# Sets the keys of seeds apart from those that are derived from the key of a small seed.
_HIGH_BITS = 2**32 - 1


def key_of_seed(seed: int) -> jax.Array:
    """Return the key of a seed from 0 to `MAX_SEED`, which `jax.random.key` cuts to 32 bits."""
    key = jax.random.key(seed % 2**32)
    high = seed >> 32
    return jax.random.fold_in(jax.random.fold_in(key, _HIGH_BITS), high) if high else key


def in_one_pass(key: jax.Array) -> jax.Array:
    """Return a key that gives the same numbers faster; another kind of key is returned as is."""
    if jax.random.key_impl(key) != "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_ONE_PASS)


def _random_bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    """Number i is the hash of i."""
    settings: Any = jax.config
    if width not in _WIDTHS or not settings.jax_threefry_partitionable or math.prod(shape) > 2**32:
        return _THREEFRY.random_bits(key, width, shape)
    numbers = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        numbers = numbers * np.uint32(size) + lax.broadcasted_iota(jnp.uint32, shape, axis)
    left, right = _threefry(key, jnp.zeros(shape, jnp.uint32), numbers)
    return (left ^ right).astype(_WIDTHS[width])


def _threefry(key: jax.Array, left: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    keys = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    left, right = left + keys[0], right + keys[1]
    for turn in range(5):
        for rotation in _ROTATIONS[turn % 2]:
            left = left + right
            right = left ^ ((right << np.uint32(rotation)) | (right >> np.uint32(32 - rotation)))
        left = left + keys[(turn + 1) % 3]
        right = right + keys[(turn + 2) % 3] + np.uint32(turn + 1)
    return left, right


_ONE_PASS = jax_random.define_prng_impl(
    key_shape=_THREEFRY.key_shape,
    seed=_THREEFRY.seed,
    split=_THREEFRY.split,
    random_bits=_random_bits,
    fold_in=_THREEFRY.fold_in,
    name="threefry2x32 in one pass",
    tag="one pass",
)
