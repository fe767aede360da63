"""Gradients of a weight matmul in the forms that XLA's CPU backend computes fastest.

Axes: ... any leading axes, I contracted input axes, O output axes.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def matmul_gradient(
    x: jax.Array,
    kernel: jax.Array,
    dy: jax.Array,
    num_inputs: int,
    transposed: bool,
    accumulator: Any,
    is_time_split: bool,
) -> tuple[jax.Array, jax.Array]:
    """Return the gradients [..., I...] of `x` and, of the kernel's shape, of `kernel`.

    Args:
        x: [..., I...].
        kernel: [I..., O...], or [O..., I...] if `transposed`, in the dtype of `x`.
        dy: [..., O...], in the dtype of `x`.
        num_inputs: number of contracted axes.
        transposed: whether the kernel's input axes come last.
        accumulator: dtype of the sums, and of the gradients.
        is_time_split: whether the second of two leading axes lies on several devices.
    """
    num_leading = x.ndim - num_inputs
    multiply = functools.partial(lax.dot_general, preferred_element_type=accumulator)
    # With more than one output axis, the backend would transpose the kernel.
    num_outputs = kernel.ndim - num_inputs
    if transposed:
        flat, output = kernel.reshape(-1, *kernel.shape[num_outputs:]), 0
    else:
        flat, output = kernel.reshape(*kernel.shape[:num_inputs], -1), num_inputs
    flat_dy = dy.reshape(*dy.shape[:num_leading], -1)
    dx = multiply(flat_dy, flat, (((num_leading,), (output,)), ((), ())))

    x_first = _puts_inputs_first(x, dy, num_leading, transposed)
    first, second = (x, dy) if x_first else (dy, x)
    dkernel = _sum_of_outer_products(first, second, num_leading, accumulator, is_time_split)
    if x_first == transposed:
        # Without the barrier the transpose would be moved into the product.
        dkernel = lax.optimization_barrier(dkernel)
        num_first = first.ndim - num_leading
        dkernel = dkernel.transpose(*range(num_first, dkernel.ndim), *range(num_first))
    return dx, dkernel


def _puts_inputs_first(x: jax.Array, dy: jax.Array, num_leading: int, transposed: bool) -> bool:
    """Return whether a kernel's gradient is made as [I..., O...].

    The backend may transpose what is put first, and the gradient is transposed if it comes out the
    other way than the kernel: the narrower is first where that moves fewer numbers.
    """
    num_rows = math.prod(x.shape[:num_leading])
    num_inputs, num_outputs = (math.prod(each.shape[num_leading:]) for each in (x, dy))
    if num_rows * abs(num_inputs - num_outputs) > num_inputs * num_outputs:
        return num_inputs <= num_outputs
    return not transposed


def _sum_of_outer_products(
    first: jax.Array, second: jax.Array, num_leading: int, accumulator: Any, is_time_split: bool
) -> jax.Array:
    """Sum over the leading axes: [..., X...] and [..., Y...] to [X..., Y...].

    XLA's CPU backend multiplies float32 matrices as they lie. With more axes it materialises a
    transpose of the first and recomputes its producers per column. bfloat16 is the exception: there
    only this form is fast.
    """
    multiply = functools.partial(lax.dot_general, preferred_element_type=accumulator)
    leading = first.shape[:num_leading]
    # Rows whose tokens lie on several devices would have to be brought together.
    if first.dtype == jnp.bfloat16 or is_time_split:
        if num_leading == 1 and leading[0] % 2 == 0:
            first, second = (x.reshape(2, -1, *x.shape[1:]) for x in (first, second))
            num_leading = 2
        contracted = tuple(range(num_leading))
        return multiply(first, second, ((contracted, contracted), ((), ())))
    num_rows = math.prod(leading)
    product = multiply(
        first.reshape(num_rows, -1), second.reshape(num_rows, -1), (((0,), (0,)), ((), ()))
    )
    return product.reshape(*first.shape[num_leading:], *second.shape[num_leading:])
