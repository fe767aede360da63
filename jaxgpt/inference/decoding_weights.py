"""A model's parameters as decoding reads them: cast once, and laid out for it once.

Axes: L layers.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxgpt.inference.cpu_layout import StoredKernel, put_outputs_first
from jaxgpt.model.gpt import Gpt
from jaxgpt.model.layers.int8 import Int8Kernel
from jaxgpt.model.moe.mixture_of_experts import is_rounded
from jaxgpt.parallel.sharding import replicated
from jaxgpt.runtime.target import compile_target


def cast_weights(model: Gpt, params: Any) -> Any:
    """Return `params` with kernels and tables in the model's compute type.

    The model casts them there anyway, at every use: doing it once changes no result, and halves
    what a step of a bfloat16 model reads.
    """
    dtype = jnp.dtype(model.config.compute_dtype)

    def cast(path: tuple[Any, ...], leaf: Any) -> Any:
        if isinstance(leaf, Int8Kernel) or not is_rounded(path):
            return leaf
        return leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, params, is_leaf=_is_int8)


@flax.struct.dataclass
class LayerArrays:
    """A parameter with one array for each layer, where the model has them stacked, [L, ...]."""

    arrays: list[Array]

    def restore(self) -> Array:
        """Return the parameter in the model's form; leaves nothing to do at run time."""
        # Pieces of what was just joined are the pieces, to the compiler.
        return jnp.stack(self.arrays)


def lay_out(model: Gpt, params: Any) -> Any:
    """Return the parameters as a decoding step reads them fastest; `restore` is the inverse.

    Each layer's weights become arrays of their own, since a loop over steps would cut them out of
    their stack, and copy them, at each step. On one CPU kernels get their outputs first, too (see
    `cpu_layout.py`). That is a copy of all that `params` holds, on the devices that hold them.

    Args:
        model: whose parameters they are.
        params: from `cast_weights`, so that a step reads less, or as they are.
    """
    for_cpu = compile_target().is_cpu and not are_shared(params)

    def store(path: tuple[Any, ...], leaf: Any) -> Any:
        if _is_int8(leaf):
            return jax.tree.map(functools.partial(cut, path), leaf)
        if for_cpu and (kernel := put_outputs_first(model.config, path, leaf)) is not None:
            return kernel
        return cut(path, leaf)

    def cut(path: tuple[Any, ...], leaf: Array) -> Any:
        return LayerArrays(_cut(leaf)) if path[0].key == "blocks" else leaf

    return jax.tree_util.tree_map_with_path(store, params, is_leaf=_is_int8)


def are_shared(params: Any) -> bool:
    """Return whether several devices hold the parameters."""
    # Shapes alone lie nowhere.
    places = [leaf.sharding for leaf in jax.tree.leaves(params)]
    return any(place is not None and place.num_devices > 1 for place in places)


def copy_to_devices_of(params: Any, tree: Any) -> Any:
    """Return arrays of which each device that holds parts of `params` has a copy."""
    places = jax.tree.leaves(params)[0].sharding
    return jax.device_put(tree, replicated(places.mesh)) if are_shared(params) else tree


def restore(params: Any) -> Any:
    """Return parameters from `lay_out`, or as they are, in the model's form, within a program."""
    return jax.tree.map(
        lambda leaf: leaf.restore() if _is_stored(leaf) else leaf, params, is_leaf=_is_stored
    )


def _is_int8(leaf: Any) -> bool:
    return isinstance(leaf, Int8Kernel)


def _is_stored(leaf: Any) -> bool:
    return isinstance(leaf, LayerArrays | StoredKernel)


def _cut(leaf: Array) -> list[Array]:
    """Return one array per layer, each divided as a layer of the stack is."""
    places = leaf.sharding
    if isinstance(places, NamedSharding):
        places = NamedSharding(places.mesh, PartitionSpec(*places.spec[1:]))
    return jax.jit(list, out_shardings=places)(leaf)
