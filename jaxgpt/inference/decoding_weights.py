"""A model's parameters as decoding reads them: cast once, and laid out for it once.

Axes: L layers, I input axes and O output axes of a kernel.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from jaxgpt.model.cpu.small_batch_matmul import TransposedKernel
from jaxgpt.model.gpt import Dtype, Gpt
from jaxgpt.model.moe.mixture_of_experts import EXPERTS, ROUTER, is_rounded
from jaxgpt.runtime.target import compile_target

# Of the parameters under these names no kernel is a `Projection`'s.
_NOT_PROJECTED = (EXPERTS, ROUTER)


def cast_weights(model: Gpt, params: Any) -> Any:
    """Return `params` with kernels and tables in the model's compute type.

    The model casts them there anyway, at every use: doing it once changes no result, and halves
    what a step of a bfloat16 model reads.
    """
    dtype = jnp.dtype(model.config.compute_dtype)

    def cast(path: tuple[Any, ...], leaf: Array) -> Array:
        return leaf.astype(dtype) if is_rounded(path) else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


@flax.struct.dataclass
class DecodingWeights:
    """Parameters laid out for reading; `restore` is for use within a program.

    Attributes:
        stored: the parameters; if `laid_out`, leaves of type `_Stored`.
        laid_out: whether each layer has arrays of its own.
        for_cpu: whether kernels have their outputs first, as XLA's CPU backend reads them fastest.
    """

    stored: Any
    laid_out: bool = flax.struct.field(pytree_node=False)
    for_cpu: bool = flax.struct.field(pytree_node=False)

    def restore(self) -> Any:
        """Return the parameters in the model's form; leaves nothing to do at run time."""
        if not self.laid_out:
            return self.stored
        return jax.tree.map(
            lambda leaf: leaf.restore(), self.stored, is_leaf=lambda leaf: isinstance(leaf, _Stored)
        )

    @property
    def cache_dtype(self) -> Dtype | None:
        """Type of keys and values in the cache; None for the model's.

        A CPU multiplies them as float32, and would widen the whole cache at each step.
        """
        return "float32" if self.for_cpu else None

    def head_table(self, table_VD: Array) -> Array | TransposedKernel:
        """Return the embedding table as a tied head multiplies with it: its ids are outputs."""
        return TransposedKernel(table_VD) if self.for_cpu else table_VD


def lay_out(model: Gpt, params: Any) -> DecodingWeights:
    """Return the weights that `Decoder` reads.

    On one device each layer's weights become arrays of their own, since a loop over steps would cut
    them out of their stack, and copy them, at each step. On a CPU kernels get their outputs first,
    too (see `model/cpu/small_batch_matmul.py`). That is a copy of all that `params` holds.

    Args:
        model: whose parameters they are.
        params: from `cast_weights`, so that a step reads less, or as they are.
    """
    if any(leaf.sharding.num_devices > 1 for leaf in jax.tree.leaves(params)):
        return DecodingWeights(params, laid_out=False, for_cpu=False)
    for_cpu = compile_target().is_cpu

    def store(path: tuple[Any, ...], leaf: Array) -> _Stored:
        keys = [key.key for key in path]
        num_layers = model.config.num_layers if keys[0] == "blocks" else None
        num_inputs = 0
        if for_cpu and keys[-1] == "kernel" and not set(keys) & set(_NOT_PROJECTED):
            shape = leaf.shape if num_layers is None else leaf.shape[1:]
            # A kernel leads from or to the model's width. Where it is both, a wrong guess is right
            # all the same, and slow.
            num_inputs = len(shape) - 1 if shape[-1] == model.config.d_model else 1
        pieces = _cut(leaf, num_layers, num_inputs)
        return _Stored(pieces, num_layers is not None, num_inputs)

    stored = jax.tree_util.tree_map_with_path(store, params)
    return DecodingWeights(stored, laid_out=True, for_cpu=for_cpu)


@flax.struct.dataclass
class _Stored:
    """One parameter.

    Attributes:
        pieces: one array, or one for each layer.
        stacked: whether the model has them stacked [L, ...].
        num_inputs: input axes of a kernel, which lie last in the pieces; 0 if nothing was moved.
    """

    pieces: list[Array]
    stacked: bool = flax.struct.field(pytree_node=False)
    num_inputs: int = flax.struct.field(pytree_node=False)

    def restore(self) -> Array | TransposedKernel:
        pieces = self.pieces
        if self.num_inputs:
            pieces = [_roll(piece, piece.ndim - self.num_inputs) for piece in pieces]
        # Pieces of what was just joined are the pieces, to the compiler.
        whole = jnp.stack(pieces) if self.stacked else pieces[0]
        return TransposedKernel(whole) if self.num_inputs else whole


@functools.partial(jax.jit, static_argnums=(1, 2))
def _cut(leaf: Array, num_layers: int | None, num_inputs: int) -> list[Array]:
    pieces = [leaf] if num_layers is None else list(leaf)
    return [_roll(piece, num_inputs) for piece in pieces] if num_inputs else pieces


def _roll(kernel: Array, num_axes: int) -> Array:
    """Move the first axes behind the others."""
    return kernel.transpose(*range(num_axes, kernel.ndim), *range(num_axes))
