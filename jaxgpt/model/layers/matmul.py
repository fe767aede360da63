"""`project`: the only weight matmul. Operands in the compute dtype, sums in float32.

A kernel that devices share is gathered for the forward pass and again for the backward pass.

Axes: ... any leading axes (B batch, T time), I contracted input axes, O output axes.
"""

import functools
import math
from typing import Any, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from jaxgpt.model.cpu.matmul_gradient import matmul_gradient
from jaxgpt.model.layers.dtypes import accumulator_dtype, rounded_output_dtype
from jaxgpt.model.layers.placement import (
    constrain_saved,
    constrain_storage,
    gather_for_use,
    placement,
)
from jaxgpt.runtime.target import compile_target

Axes = tuple[str | None, ...]
# One row is multiplied as this many on a GPU; its tiles have no fewer.
_FEWEST_GPU_ROWS = 8
# And 8-bit numbers on a CPU: one row of them XLA multiplies as int32, with a copy of the kernel.
_FEWEST_CPU_ROWS_OF_INT8 = 2


@runtime_checkable
class CustomKernel(Protocol):
    """A kernel that is not an array and brings its own product."""

    def multiply(
        self, x: jax.Array, num_inputs: int, transposed: bool, axes: Axes, dtype: Any
    ) -> jax.Array:
        """Return what `project` returns, in `dtype`."""
        ...


Kernel = jax.Array | CustomKernel


def project(
    x: jax.Array,
    kernel: Kernel,
    num_inputs: int = 1,
    transposed: bool = False,
    axes: Axes = (),
    is_rounded: bool = False,
) -> jax.Array:
    """Contract the last `num_inputs` axes of `x` with the kernel's input axes.

    The product takes operands in the dtype of `x` and accumulates and returns float32. So does
    its gradient, with the cotangent cast to the dtype of `x`: automatic differentiation would mix
    a float32 cotangent with bfloat16 operands and fall off the fast path. A float32 kernel gets a
    float32 gradient that was never rounded.

    A kernel split over devices is gathered in the dtype of `x`, and again for the backward pass:
    what is saved between the two is the split one.

    Args:
        x: [..., I...].
        kernel: [I..., O...], or [O..., I...] if `transposed`, of any float dtype.
        num_inputs: number of contracted axes.
        transposed: whether the kernel's input axes come last.
        axes: names of the kernel's axes, by which it is placed; empty to leave that open.
        is_rounded: whether the caller rounds the result to the dtype of `x` at once.

    Returns:
        [..., O...], float32 (or wider, if `x` is); of the dtype of `x` where `is_rounded` and that
        is faster.
    """
    dtype = (rounded_output_dtype if is_rounded else accumulator_dtype)(x.dtype)
    if isinstance(kernel, CustomKernel):
        return kernel.multiply(x, num_inputs, transposed, axes, dtype)
    return cast(jax.Array, _project(x, kernel, num_inputs, transposed, axes, dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _project(
    x: jax.Array, kernel: jax.Array, num_inputs: int, transposed: bool, axes: Axes, dtype: Any
) -> jax.Array:
    kernel_inputs, _ = _kernel_axes(kernel, num_inputs, transposed)
    num_leading = x.ndim - num_inputs
    inputs, num_rows = x, math.prod(x.shape[:num_leading])
    if num_rows == 1 and (fewest := _fewest_rows(x.dtype)) > 1:
        # XLA's GPU compiler turns the product of one row into a multiplication, whose result is as
        # large as the kernel, and a sum. Rows are read for nothing; the kernel is read once.
        inputs = jnp.broadcast_to(x, (fewest, *x.shape[1:]))
    y = lax.dot_general(
        inputs,
        gather_for_use(kernel, x.dtype, *axes),
        ((tuple(range(num_leading, x.ndim)), kernel_inputs), ((), ())),
        preferred_element_type=dtype,
    )
    return y[:1] if inputs is not x else y


def for_products(x: jax.Array, num_products: int) -> tuple[jax.Array, ...]:
    """Return `x` for each of several products, whose gradients of `x` are added up.

    cuBLAS adds a product to the sum of those before it, and no kernel is needed for that. XLA finds
    a sum whose first term is a product; automatic differentiation writes the sum so far first.
    """
    if compile_target().is_cpu:
        return (x,) * num_products
    return cast(tuple[jax.Array, ...], _for_products(num_products, x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _for_products(num_products: int, x: jax.Array) -> tuple[jax.Array, ...]:
    return (x,) * num_products


_for_products.defvjp(
    lambda num_products, x: ((x,) * num_products, None),
    lambda num_products, _, gradients: (
        functools.reduce(lambda sum_so_far, dx: dx + sum_so_far, gradients),
    ),
)


def _fewest_rows(dtype: Any) -> int:
    """Return how many rows a fast product of numbers of a type has at least."""
    if not compile_target().is_cpu:
        return _FEWEST_GPU_ROWS
    return _FEWEST_CPU_ROWS_OF_INT8 if dtype == jnp.int8 else 1


def _kernel_axes(
    kernel: jax.Array, num_inputs: int, transposed: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the input axes and the output axes of a kernel."""
    if transposed:
        num_outputs = kernel.ndim - num_inputs
        return tuple(range(num_outputs, kernel.ndim)), tuple(range(num_outputs))
    return tuple(range(num_inputs)), tuple(range(num_inputs, kernel.ndim))


def _project_forward(
    x: jax.Array, kernel: jax.Array, num_inputs: int, transposed: bool, axes: Axes, dtype: Any
) -> Any:
    saved = (x, constrain_saved(kernel, *axes))
    return _project(x, kernel, num_inputs, transposed, axes, dtype), saved


def _project_backward(
    num_inputs: int, transposed: bool, axes: Axes, dtype: Any, saved: Any, dy: jax.Array
) -> Any:
    x, kernel = saved
    used, dy = gather_for_use(kernel, x.dtype, *axes), dy.astype(x.dtype)
    accumulator, leading = accumulator_dtype(x.dtype), tuple(range(x.ndim - num_inputs))
    if compile_target().is_cpu:
        spec = placement(x.shape[:2], ("batch", "time")) if len(leading) == 2 else None
        is_time_split = spec is not None and spec[1] is not None
        dx, dkernel = matmul_gradient(
            x, used, dy, num_inputs, transposed, accumulator, is_time_split
        )
    else:
        _, kernel_outputs = _kernel_axes(kernel, num_inputs, transposed)
        outputs = tuple(range(len(leading), dy.ndim))
        dx = lax.dot_general(
            dy, used, ((outputs, kernel_outputs), ((), ())), preferred_element_type=x.dtype
        )
        first, second = (dy, x) if transposed else (x, dy)
        dkernel = lax.dot_general(
            first, second, ((leading, leading), ((), ())), preferred_element_type=accumulator
        )
    return dx.astype(x.dtype), constrain_storage(dkernel.astype(kernel.dtype), *axes)


_project.defvjp(_project_forward, _project_backward)
