"""Products of few rows with a weight on a CPU, as decoding makes them: what counts is reading it.

XLA gives the product of one row to one thread, and copies a bfloat16 weight into another order
first. Neither happens where the weight lies in memory with its outputs first, stands on the left,
and is cut into two stacks of outputs. docs/benchmarks/decoding.md has what that gains.

Axes: ... any leading axes, I contracted input axes, O output axes, R rows, P parts of the outputs.
"""

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

# Four gain nothing for one row and lose for eight (measured with two threads).
_NUM_PARTS = 2
# Beyond these the ordinary product is faster, by a fifth from 32 on; but a token's bits are to be
# the same in a step of few slots and in one that verifies its drafts, which has more rows.
_MOST_ROWS = 64
# Below, XLA's CPU backend has no fast product of bfloat16: rows of zeros are cheaper.
_FEWEST_BF16_ROWS = 4


@flax.struct.dataclass
class TransposedKernel:
    """A kernel whose numbers lie in memory with the outputs first, in place of its array.

    Attributes:
        kernel: the array with its axes as the layer has them: where that is not the order in
            memory, a transpose that the compiler makes part of the product.
    """

    kernel: jax.Array

    def multiply(
        self,
        x: jax.Array,
        num_inputs: int,
        transposed: bool,
        axes: tuple[str | None, ...],
        dtype: Any,
    ) -> jax.Array:
        """Return what `layers/matmul.py: project` returns, [..., O...]; there is no gradient.

        Args:
            x: [..., I...].
            num_inputs: number of contracted axes.
            transposed: whether the kernel's input axes come last.
            axes: not used, as one device holds the kernel.
            dtype: type of the result.
        """
        kernel, num_leading = self.kernel.astype(x.dtype), x.ndim - num_inputs
        num_rows, num_outputs = math.prod(x.shape[:num_leading]), kernel.ndim - num_inputs
        if num_rows > _MOST_ROWS:
            first = num_outputs if transposed else 0
            inputs = tuple(range(first, first + num_inputs))
            contracted = (tuple(range(num_leading, x.ndim)), inputs)
            return lax.dot_general(x, kernel, (contracted, ((), ())), preferred_element_type=dtype)
        if not transposed:
            kernel = kernel.transpose(*range(num_inputs, kernel.ndim), *range(num_inputs))
        outputs = kernel.shape[:num_outputs]
        y_RO = _multiply(x.reshape(num_rows, -1), kernel.reshape(math.prod(outputs), -1), dtype)
        return y_RO.reshape(*x.shape[:num_leading], *outputs)


def _multiply(x_RI: jax.Array, kernel_OI: jax.Array, dtype: Any) -> jax.Array:
    num_rows, num_outputs = x_RI.shape[0], kernel_OI.shape[0]
    if x_RI.dtype == jnp.bfloat16:
        x_RI = jnp.pad(x_RI, ((0, max(0, _FEWEST_BF16_ROWS - num_rows)), (0, 0)))
    num_parts = math.gcd(num_outputs, _NUM_PARTS)
    y_POR = lax.dot_general(
        kernel_OI.reshape(num_parts, num_outputs // num_parts, -1),
        jnp.broadcast_to(x_RI, (num_parts, *x_RI.shape)),
        (((2,), (2,)), ((0,), (0,))),
        preferred_element_type=dtype,
    )
    return y_POR.reshape(num_outputs, -1).T[:num_rows]
