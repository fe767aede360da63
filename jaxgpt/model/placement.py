"""Where arrays lie, for whoever put rules in force; without rules or a mesh, nowhere special.

The model names the axes of an array; `parallel/sharding.py` says which mesh axes split them. A
weight lies in two ways: as it is kept from step to step, and gathered where it is used.
"""

import functools
import math
from typing import cast

import flax.linen as nn
import jax
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


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Place an activation by the names of its axes; without names, leave it to the compiler."""
    if not axes:
        return x
    spec = placement(x.shape, axes)
    return x if spec is None else jax.lax.with_sharding_constraint(x, spec)


def constrain_kept(param: jax.Array, *axes: str | None) -> jax.Array:
    """Place a parameter, or its gradient, as it is kept: split by `fsdp` as well."""
    # The names that `activation_rules` in parallel/sharding.py gives to them.
    return constrain(param, *(axis and f"kept {axis}" for axis in axes))


def gathered(param: jax.Array, *axes: str | None) -> jax.Array:
    """Collect from the devices along `fsdp` what they keep of a parameter, for use.

    The gradient goes back to where the parameter is kept, so that no device holds all of it.
    """
    return cast(jax.Array, _gathered(param, axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(param: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    return constrain(param, *axes)


_gathered.defvjp(
    lambda param, axes: (constrain(param, *axes), None),
    lambda axes, _, gradient: (constrain_kept(gradient, *axes),),
)


@jax.custom_vjp
def looked_up(rows_BTD: jax.Array) -> jax.Array:
    """Rows of a table, as they are; their gradient goes to where the table's width is kept.

    Each device then adds up its part of the width. Left alone, the compiler, which knows where the
    table's gradient lies but not how to get there from split rows, gathers all rows everywhere.
    """
    return rows_BTD


looked_up.defvjp(
    lambda rows_BTD: (rows_BTD, None),
    lambda _, gradient: (constrain(gradient, "kept batch", "time", "kept embed"),),
)
