"""16-bit numbers as the integers of their bits, for what only moves them.

XLA's CPU backend slices, transposes and updates a bfloat16 array by way of float32: to write one
place it may convert the whole array, and back. Integers it moves as they are.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.runtime.target import compile_target


def to_uint16(x: jax.Array) -> jax.Array:
    """Return 16-bit numbers as uint16 on a CPU, all others as they are."""
    is_moved_as_bits = x.dtype.itemsize == 2 and compile_target().is_cpu
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if is_moved_as_bits else x


def from_uint16(bits: jax.Array, dtype: Any) -> jax.Array:
    """Return numbers of that type from their bits; the inverse of `to_uint16`."""
    return jax.lax.bitcast_convert_type(bits, jnp.dtype(dtype))
