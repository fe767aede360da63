"""16-bit numbers as the integers of their bits, for what only moves them.

XLA's CPU backend slices, transposes and updates a bfloat16 array by way of float32: to write one
place it may convert the whole array, and back. Integers it moves as they are.
"""

from typing import Any

import jax
import jax.numpy as jnp


def bits_of(x: jax.Array) -> jax.Array:
    """Return numbers of 16 bits as uint16, of any other size as they are."""
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if x.dtype.itemsize == 2 else x


def numbers_of(bits: jax.Array, dtype: Any) -> jax.Array:
    """The inverse of `bits_of`, for numbers of that type."""
    return jax.lax.bitcast_convert_type(bits, jnp.dtype(dtype))
