"""Placement of arrays under the rules in force; without rules or a mesh, no constraint.

The model names the axes of an array; `parallel/sharding.py` says which mesh axes split them. A
weight has two shardings: one for storage from step to step, and one, gathered, for use.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.spmd import logical_to_mesh_axes
from jax.sharding import PartitionSpec


def placement(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> PartitionSpec | None:
    """Translate the names of an array's axes by the rules in force; None if nothing splits here.

    A dimension that its mesh axes do not divide (a prompt of one row) is left whole.
    """
    rules, mesh = nn.get_logical_axis_rules(), jax.sharding.get_abstract_mesh()
    if not rules or mesh.empty or mesh.size == 1:
        return None

    def split(dim: int, mesh_axes: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
        names = (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ()
        # Inside of `shard_map` its own axes are split already.
        names = tuple(name for name in names if name not in mesh.manual_axes)
        parts = math.prod(mesh.shape[name] for name in names)
        return names if parts > 1 and dim % parts == 0 else None

    spec = logical_to_mesh_axes(axes, rules)
    assert spec is not None
    return PartitionSpec(*map(split, shape, spec))


def is_in_stage() -> bool:
    """Return whether the stages of a pipeline are divided around the caller."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def mesh_axes(spec: PartitionSpec | None) -> tuple[str, ...]:
    """Return the mesh axes that split an array placed so."""
    names = [(part,) if isinstance(part, str) else part or () for part in spec or ()]
    return tuple(name for part in names for name in part)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Place an activation by the names of its axes; without names, leave it to the compiler."""
    if not axes:
        return x
    spec = placement(x.shape, axes)
    return x if spec is None else jax.lax.with_sharding_constraint(x, spec)


def constrain_storage(param: jax.Array, *axes: str | None) -> jax.Array:
    """Give a parameter, or its gradient, its storage sharding: split by `fsdp` as well."""
    return constrain(param, *storage_axes(axes))


def storage_axes(axes: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Return the names that `activation_rules` in parallel/sharding.py gives to storage axes."""
    return tuple(axis and f"storage {axis}" for axis in axes)


def is_split_for_storage(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> bool:
    """Return whether the storage sharding of a parameter splits it further than its use."""
    return placement(shape, axes) != placement(shape, storage_axes(axes))


# Axes of the parameters that are collected already. JAX traces again where the value differs.
_COLLECTED = jax.make_user_context(frozenset())


@contextlib.contextmanager
def collected(axes: frozenset[tuple[str | None, ...]]) -> Iterator[None]:
    """Take parameters with these axes, within the context, as they are: they lie as used."""
    with _COLLECTED(axes):
        yield


def constrain_saved(param: jax.Array, *axes: str | None) -> jax.Array:
    """Give a parameter its storage sharding, unless it is one of `collected`: no exchange."""
    return param if axes in _COLLECTED.value else constrain_storage(param, *axes)


@jax.named_scope("gather_weights")
def gather_for_use(param: jax.Array, dtype: Any, *axes: str | None) -> jax.Array:
    """Return a parameter in the type it is used in, collected from the devices along `fsdp`.

    It is rounded before it is gathered, so that devices exchange no more than they use. Left alone,
    the compiler may gather first and round then.
    """
    return constrain(constrain_saved(param.astype(dtype), *axes), *axes)


def round_and_gather(param: jax.Array, dtype: Any, *axes: str | None) -> jax.Array:
    """Return the values of `gather_for_use` in the parameter's type, which its gradient keeps.

    The gradient gets the storage sharding, so that no device holds all of it. The caller rounds the
    result to `dtype`, for which the compiler takes what was exchanged.
    """
    if not is_split_for_storage(param.shape, axes):
        return param
    return cast(jax.Array, _round_and_gather(param, jnp.dtype(dtype), axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _round_and_gather(param: jax.Array, dtype: Any, axes: tuple[str | None, ...]) -> jax.Array:
    return gather_for_use(param, dtype, *axes).astype(param.dtype)


_round_and_gather.defvjp(
    lambda param, dtype, axes: (_round_and_gather(param, dtype, axes), None),
    lambda dtype, axes, _, gradient: (constrain_storage(gradient, *axes),),
)


def place_embedding_gradient(gradient_BTD: jax.Array) -> jax.Array:
    """Split the gradient of rows of a table as the storage sharding splits the table's width.

    Each device then adds up its part of the width. Left alone, the compiler, which knows where the
    table's gradient lies but not how to get there from split rows, gathers all rows everywhere.
    """
    return constrain(gradient_BTD, "storage batch", "time", "storage embed")
