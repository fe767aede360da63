"""Types that products and sums are kept in."""

from typing import Any

import jax.numpy as jnp

from jaxgpt.runtime.target import compile_target


def accumulator_dtype(dtype: Any) -> Any:
    """Return the type that sums of `dtype` are kept in: float32, or wider if `dtype` is.

    Sums of integers are int32, which holds those of 133,000 products of two int8.
    """
    is_integer = jnp.issubdtype(dtype, jnp.integer)
    return jnp.promote_types(dtype, jnp.int32 if is_integer else jnp.float32)


def rounded_output_dtype(dtype: Any) -> Any:
    """Return the type that a product comes in whose result is rounded to `dtype` at once.

    A GPU's kernels add up in float32 and round once, at the end; where devices share a sum, they
    exchange half the bytes. XLA's CPU backend is slower unless it returns float32.
    """
    return accumulator_dtype(dtype) if compile_target().is_cpu else jnp.dtype(dtype)
