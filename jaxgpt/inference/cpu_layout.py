"""Parameters as decoding on a CPU reads them fastest: kernels with their outputs first.

See `model/cpu/small_batch_matmul.py` for why. Nothing here is used on another device.

Axes: L layers, I input axes and O output axes of a kernel, V padded vocabulary, D model.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from jaxgpt.model.cpu.small_batch_matmul import TransposedKernel
from jaxgpt.model.gpt import Dtype, GptConfig
from jaxgpt.model.layers.matmul import CustomKernel, Kernel
from jaxgpt.model.moe.mixture_of_experts import EXPERTS, ROUTER
from jaxgpt.runtime.target import compile_target

# Of the parameters under these names no kernel is a `Projection`'s.
_NOT_PROJECTED = (EXPERTS, ROUTER)


@flax.struct.dataclass
class StoredKernel:
    """A kernel with its outputs first, or one of each layer.

    Attributes:
        arrays: [O..., I...], one for each layer if the model has them stacked.
        num_inputs: number of input axes.
        stacked: whether the model has them stacked, [L, I..., O...].
    """

    arrays: list[Array]
    num_inputs: int = flax.struct.field(pytree_node=False)
    stacked: bool = flax.struct.field(pytree_node=False)

    def restore(self) -> TransposedKernel:
        """Return the kernel in the model's form; leaves nothing to do at run time."""
        kernels = [_roll(array, array.ndim - self.num_inputs) for array in self.arrays]
        # Pieces of what was just joined are the pieces, to the compiler.
        return TransposedKernel(jnp.stack(kernels) if self.stacked else kernels[0])


def put_outputs_first(config: GptConfig, path: tuple[Any, ...], leaf: Array) -> StoredKernel | None:
    """Return a copy of a kernel with its outputs first; None if the parameter is no such kernel.

    Args:
        config: the model's.
        path: of the parameter.
        leaf: the parameter.
    """
    keys = [key.key for key in path]
    if keys[-1] != "kernel" or set(keys) & set(_NOT_PROJECTED):
        return None
    stacked = keys[0] == "blocks"
    shape = leaf.shape[1:] if stacked else leaf.shape
    # A kernel leads from or to the model's width. Where it is both, a wrong guess is right all the
    # same, and slow.
    num_inputs = len(shape) - 1 if shape[-1] == config.d_model else 1
    return StoredKernel(_roll_each(leaf, num_inputs, stacked), num_inputs, stacked)


def head_table(params: Any, table_VD: Kernel) -> Kernel:
    """Return the embedding table as a tied head multiplies with it: its ids are outputs."""
    if isinstance(table_VD, CustomKernel):
        return table_VD
    is_kernel = lambda leaf: isinstance(leaf, StoredKernel)  # noqa: E731
    laid_out = any(map(is_kernel, jax.tree.leaves(params, is_leaf=is_kernel)))
    return TransposedKernel(table_VD) if laid_out else table_VD


def cache_dtype() -> Dtype | None:
    """Return the type of keys and values in the cache; None for the model's.

    A CPU multiplies them as float32, and would widen the whole cache at each step.
    """
    return "float32" if compile_target().is_cpu else None


@functools.partial(jax.jit, static_argnums=(1, 2))
def _roll_each(leaf: Array, num_inputs: int, stacked: bool) -> list[Array]:
    return [_roll(kernel, num_inputs) for kernel in (list(leaf) if stacked else [leaf])]


def _roll(kernel: Array, num_axes: int) -> Array:
    """Move the first axes behind the others."""
    return kernel.transpose(*range(num_axes, kernel.ndim), *range(num_axes))
