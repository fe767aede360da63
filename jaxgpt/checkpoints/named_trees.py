"""Any pytree <-> its leaves under readable names, and the difference of two sets of names. A tree
is stored as a nested dict of arrays. Containers such as optax's named tuples, its empty and masked
states, None leaves and arrays without elements come from the tree that a restore is asked for.
Random keys are stored as their integers. This file knows nothing of files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.errors import did_you_mean

_SHOWN = 5


@dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of a stored array."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def is_float(self) -> bool:
        return jnp.issubdtype(self.dtype, jnp.floating)


def named_arrays(tree: Any) -> dict[str, Any]:
    """Return the stored arrays of a tree by path, such as `0/mu/blocks/kernel`."""
    arrays = {}
    for name, leaf in _named_leaves(tree).items():
        if _is_key(leaf):
            arrays[name] = jax.random.key_data(leaf)
        elif np.size(leaf) > 0:
            arrays[name] = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    return arrays


def named_specs(tree: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the specs of the arrays to store, by path, for a tree of `ShapeDtypeStruct`."""
    specs = {}
    for name, leaf in _named_leaves(tree).items():
        if _is_key(leaf):
            data = jax.eval_shape(jax.random.key_data, leaf)
            specs[name] = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)
        elif np.size(leaf) > 0:
            specs[name] = leaf
    return specs


def refill(tree: Any, arrays: Mapping[str, Any]) -> Any:
    """Return `tree`, of `ShapeDtypeStruct`, with each leaf replaced by the array of its name."""
    leaves = [_refill_leaf(leaf, arrays.get(name)) for name, leaf in _named_leaves(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `{"a/b": x}` into `{"a": {"b": x}}`."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def unnest(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Undo `nest`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= unnest(value, f"{prefix}{key}/")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def describe_difference(
    stored: Mapping[str, ArraySpec], wanted: Mapping[str, ArraySpec], cast_floats: bool
) -> str | None:
    """Describe how `stored` (a checkpoint) and `wanted` (this program) differ; None if they match.

    Args:
        stored: arrays of the checkpoint by name.
        wanted: arrays to be restored, by name.
        cast_floats: whether one floating dtype may stand for another.
    """
    absent = [name for name in wanted if name not in stored]
    unexpected = [name for name in stored if name not in wanted]
    both = [name for name in wanted if name in stored]
    shapes = [
        f"{name} is {list(stored[name].shape)} there and {list(wanted[name].shape)} here"
        for name in both
        if stored[name].shape != wanted[name].shape
    ]
    dtypes = [
        f"{name} is {stored[name].dtype} there and {wanted[name].dtype} here"
        for name in both
        if not _dtypes_match(stored[name], wanted[name], cast_floats)
    ]
    parts = []
    if absent:
        hint = did_you_mean(absent[0], unexpected)
        parts.append(f"missing in the checkpoint: {_some(absent)}{hint}")
    if unexpected:
        parts.append(f"in the checkpoint only: {_some(unexpected)}")
    if shapes:
        parts.append(f"shapes differ: {_some(shapes)}")
    if dtypes:
        parts.append(f"types differ: {_some(dtypes)}")
    return "; ".join(parts) or None


def _dtypes_match(stored: ArraySpec, wanted: ArraySpec, cast_floats: bool) -> bool:
    return stored.dtype == wanted.dtype or (cast_floats and stored.is_float and wanted.is_float)


def _some(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _named_leaves(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    # On disk "/" becomes ".", so that `a/b` and `a.b` would be one array.
    if len({name.replace("/", ".") for name in named}) < len(leaves):
        raise ValueError("two leaves of the tree have the same name; rename a key with a / or .")
    return named


def _refill_leaf(spec: jax.ShapeDtypeStruct, array: Any) -> Any:
    if _is_key(spec):
        return jax.random.wrap_key_data(array, impl=_key_implementation(spec.dtype))
    if array is not None:
        return array
    empty = np.zeros(spec.shape, spec.dtype)
    return empty if spec.sharding is None else jax.device_put(empty, spec.sharding)


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _key_implementation(dtype: Any) -> str:
    """Return the name of the generator whose keys have `dtype`."""
    for name in ("threefry2x32", "rbg", "unsafe_rbg"):
        if jax.eval_shape(lambda name=name: jax.random.key(0, impl=name)).dtype == dtype:
            return name
    raise TypeError(f"random keys of type {dtype} cannot be restored")
