"""A model's weights in 8 bits: which parameters, and the axes along which they share scales."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.model.gpt import Gpt
from jaxgpt.model.layers.int8 import Int8Kernel, round_to_int8
from jaxgpt.model.moe.mixture_of_experts import is_rounded
from jaxgpt.parallel.sharding import logical_axes

# Axes along which a parameter is a stack of parameters.
_STACKS = ("layers", "expert")
_WIDTH = "embed"


def round_weights(model: Gpt, params: Any) -> Any:
    """Return `params` with kernels and tables as `Int8Kernel`; norms, biases and routers stay.

    Args:
        model: whose parameters they are.
        params: in the types that they were trained in; those that are `Int8Kernel` stay.
    """
    tokens_11 = jnp.zeros((1, 1), jnp.int32)
    boxed = jax.eval_shape(lambda key: model.init(key, tokens_11), jax.random.key(0))["params"]

    def store(path: tuple[Any, ...], names: tuple[str | None, ...], leaf: Any) -> Any:
        if isinstance(leaf, Int8Kernel) or not is_rounded(path):
            return leaf
        return _round(leaf, _input_axes(path[-1].key, names))

    is_names = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    return jax.tree_util.tree_map_with_path(store, logical_axes(boxed), params, is_leaf=is_names)


def _input_axes(name: str, axes: tuple[str | None, ...]) -> tuple[int, ...]:
    """Return the axes that a product with the parameter adds up.

    A kernel leads from the model's width or to it; a table is multiplied by its rows.
    """
    own = tuple(number for number, axis in enumerate(axes) if axis not in _STACKS)
    is_from_width = name == "table" or axes[own[0]] == _WIDTH
    return tuple(number for number in own if (axes[number] == _WIDTH) == is_from_width)


@functools.partial(jax.jit, static_argnums=1)
def _round(weight: jax.Array, axes: tuple[int, ...]) -> Int8Kernel:
    return Int8Kernel(*round_to_int8(weight, axes))
