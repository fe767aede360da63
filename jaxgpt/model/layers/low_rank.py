"""Products with a kernel that is changed by a product of two thin matrices: W + s A B.

Axes: ... any leading axes, I inputs and O outputs of a projection, R rank.
"""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxgpt.model.layers.matmul import project

# Name of the axis along which the two matrices meet.
RANK_AXIS = "rank"


class Product(NamedTuple):
    """Settings of `multiply_merged`.

    Attributes:
        axes, num_inputs, is_rounded: see `project`.
        scale: s.
    """

    axes: tuple[str, ...]
    num_inputs: int
    is_rounded: bool
    scale: float


def multiply_low_rank(
    x: jax.Array, a: jax.Array, b: jax.Array, axes: tuple[str, ...], scale: float
) -> jax.Array:
    """Return s (x A) B [..., O...].

    Args:
        x: [..., I...].
        a: [I..., R].
        b: [R, O...].
        axes: logical names of I and O.
        scale: s.
    """
    num_inputs = a.ndim - 1
    h = project(x, a, num_inputs, axes=(*axes[:num_inputs], RANK_AXIS)) * scale
    return project(h.astype(x.dtype), b, axes=(RANK_AXIS, *axes[num_inputs:]), is_rounded=True)


def merge_low_rank(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """Return W + s A B [I..., O...]."""
    return kernel + scale * contract(a, b, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def multiply_merged(
    x: jax.Array, kernel: jax.Array, a: jax.Array, b: jax.Array, how: Product
) -> jax.Array:
    """Return x (W + s A B) [..., O...]: one product, and one for the gradient of `x`.

    The gradients of A and B are those of `multiply_low_rank`, which never makes the gradient of a
    whole kernel. Next to two products with a kernel, adding up [..., O...] and [..., I...] twice
    would take a tenth of their time on a CPU.
    """
    merged = merge_low_rank(kernel, a, b, how.scale)
    return project(x, merged, how.num_inputs, axes=how.axes, is_rounded=how.is_rounded)


def _forward(x: jax.Array, kernel: jax.Array, a: jax.Array, b: jax.Array, how: Product) -> Any:
    return multiply_merged(x, kernel, a, b, how), (x, kernel, a, b)


def _backward(how: Product, saved: Any, dy: jax.Array) -> Any:
    x, kernel, a, b = saved

    def multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
        merged = merge_low_rank(kernel, *jax.lax.stop_gradient((a, b)), how.scale)
        return project(x, merged, how.num_inputs, axes=how.axes, is_rounded=how.is_rounded)

    def change(a: jax.Array, b: jax.Array) -> jax.Array:
        return multiply_low_rank(x, a, b, how.axes, how.scale)

    dx, dkernel = jax.vjp(multiply, x, kernel)[1](dy)
    y, pull = jax.vjp(change, a, b)
    return dx, dkernel, *pull(dy.astype(y.dtype))


multiply_merged.defvjp(_forward, _backward)


def contract(left: jax.Array, right: jax.Array, axes: Any) -> jax.Array:
    """Return `tensordot` in full precision, on a GPU too."""
    return cast(jax.Array, jnp.tensordot(left, right, axes, precision=jax.lax.Precision.HIGHEST))
