"""Where arrays lie, for whoever put rules in force; without rules or a mesh, nowhere special.

The model names the axes of an array; `parallel/sharding.py` says which mesh axes split them. A
weight lies in two ways: as it is kept from step to step, and gathered where it is used.
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


def constrain_kept(param: jax.Array, *axes: str | None) -> jax.Array:
    """Place a parameter, or its gradient, as it is kept: split by `fsdp` as well."""
    return constrain(param, *kept(axes))


def kept(axes: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Return the names that `activation_rules` in parallel/sharding.py gives to kept axes."""
    return tuple(axis and f"kept {axis}" for axis in axes)


def is_split_for_keeping(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> bool:
    """Return whether a parameter is split further where it is kept than where it is used."""
    return placement(shape, axes) != placement(shape, kept(axes))


# Axes of the parameters that are collected already. JAX traces again where the value differs.
_COLLECTED = jax.make_user_context(frozenset())


@contextlib.contextmanager
def collected(axes: frozenset[tuple[str | None, ...]]) -> Iterator[None]:
    """Take parameters with these axes, within the context, as they are: they lie as used."""
    with _COLLECTED(axes):
        yield


def constrain_saved(param: jax.Array, *axes: str | None) -> jax.Array:
    """Place a parameter as it is kept, unless it is one of `collected`, which need no exchange."""
    return param if axes in _COLLECTED.value else constrain_kept(param, *axes)


def gathered(param: jax.Array, dtype: Any, *axes: str | None) -> jax.Array:
    """Return a parameter in the type it is used in, collected from the devices along `fsdp`.

    It is rounded where it is kept, so that devices exchange no more than they use. Left alone, the
    compiler may collect first and round then.
    """
    return constrain(constrain_saved(param.astype(dtype), *axes), *axes)


def rounded_and_gathered(param: jax.Array, dtype: Any, *axes: str | None) -> jax.Array:
    """Return the numbers of `gathered`, in the type of the parameter, so that gradients keep it.

    The gradient goes back to where the parameter is kept, so that no device holds all of it. Who
    uses the result rounds it to `dtype`, for which the compiler takes what was exchanged.
    """
    if not is_split_for_keeping(param.shape, axes):
        return param
    return cast(jax.Array, _rounded_and_gathered(param, jnp.dtype(dtype), axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _rounded_and_gathered(param: jax.Array, dtype: Any, axes: tuple[str | None, ...]) -> jax.Array:
    return gathered(param, dtype, *axes).astype(param.dtype)


_rounded_and_gathered.defvjp(
    lambda param, dtype, axes: (_rounded_and_gathered(param, dtype, axes), None),
    lambda dtype, axes, _, gradient: (constrain_kept(gradient, *axes),),
)


def constrain_looked_up(gradient_BTD: jax.Array) -> jax.Array:
    """Place the gradient of rows of a table as the table's width is kept.

    Each device then adds up its part of the width. Left alone, the compiler, which knows where the
    table's gradient lies but not how to get there from split rows, gathers all rows everywhere.
    """
    return constrain(gradient_BTD, "kept batch", "time", "kept embed")
