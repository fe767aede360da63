"""Where activations lie, for whoever put rules in force; without rules or a mesh, nowhere special.

The model names the axes of an array; `parallel/sharding.py` says which mesh axes split them.
"""

import math

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


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Place an activation by the names of its axes."""
    spec = placement(x.shape, axes)
    return x if spec is None else jax.lax.with_sharding_constraint(x, spec)
