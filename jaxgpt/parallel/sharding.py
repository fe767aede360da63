"""Sharding of arrays: typed tables from the axes that the model names to those of the mesh.

The model names axes ("embed", "heads", ...) and knows no devices. `ShardingRules` places what is
kept from step to step, `ActivationRules` what flows through the model, under `on_mesh`.

Axes: B rows (global batch), T tokens of a row (time).
"""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxgpt.batch import Batch
from jaxgpt.config import configclass
from jaxgpt.errors import ConfigError, did_you_mean

# Devices, or only their number and arrangement.
AnyMesh = Mesh | AbstractMesh


@configclass
class ShardingRules:
    """For each logical axis of a parameter the mesh axis that splits it, or None (a copy each)."""

    vocab: str | None = "tensor"
    """Rows of the embedding, columns of the head."""
    embed: str | None = "fsdp"
    """The model's width."""
    heads: str | None = "tensor"
    """Query heads."""
    kv_heads: str | None = "tensor"
    """Key and value heads."""
    head_dim: str | None = None
    """Width of a head."""
    norm: str | None = None
    """Scales and biases of norms."""
    mlp: str | None = "tensor"
    """Hidden units of the feed-forward layers."""
    expert: str | None = "expert"
    """Experts of a mixture."""
    router: str | None = None
    """Outputs of a router, one for each expert."""
    layers: str | None = "pipeline"
    """The stacked blocks."""
    positions: str | None = None
    """Rows of a learned position table."""
    classes: str | None = None
    """Outputs of a classification head."""
    rank: str | None = None
    """Rank of adapters."""


@dataclasses.dataclass(frozen=True)
class ActivationRules:
    """For each axis that activations alone have, the mesh axes that split it."""

    batch: tuple[str, ...] = ("data", "fsdp", "expert", "pipeline")
    """Rows of the batch; before and after the layers, stages share them out, too."""
    time: tuple[str, ...] = ("context",)
    """Tokens of a row."""
    residual: tuple[str, ...] = ()
    """Width of the residual stream."""


ACTIVATIONS = ActivationRules()


def activation_rules(
    rules: ShardingRules, activations: ActivationRules = ACTIVATIONS
) -> tuple[tuple[str, Any], ...]:
    """Return the mesh axes that split each logical axis in activations and gathered weights.

    Heads, hidden units and vocabulary lie as in the kernels that make them. The width does not:
    `fsdp` splits the rows of an activation, so a weight is gathered along it before use.
    """
    parameters = dataclasses.asdict(rules)
    # The names in `model/layers/placement.py` for the axes of a parameter in storage, not in use.
    as_stored = {f"storage {name}": mesh_axis for name, mesh_axis in parameters.items()}
    # Rows of a gradient whose width lies as a parameter's does.
    rows = {"storage batch": tuple(name for name in activations.batch if name != rules.embed)}
    table = as_stored | parameters | {"embed": None} | dataclasses.asdict(activations) | rows
    return tuple((name, mesh_axes or None) for name, mesh_axes in table.items())


@contextmanager
def on_mesh(
    mesh: Mesh, rules: ShardingRules, activations: ActivationRules = ACTIVATIONS
) -> Iterator[None]:
    """Trace and run on `mesh`, with the model's activations placed by the rules."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(activation_rules(rules, activations)):
        yield


def partition_spec(axes: tuple[str | None, ...], rules: ShardingRules) -> PartitionSpec:
    """Translate a parameter's logical axes.

    Raises:
        ConfigError: an axis without a rule, or two axes of one parameter on one mesh axis.
    """
    table = {field.name: getattr(rules, field.name) for field in dataclasses.fields(rules)}
    placed: list[str | None] = []
    for axis in axes:
        if axis is not None and axis not in table:
            raise ConfigError(
                f"no sharding rule for the axis {axis!r}{did_you_mean(axis, table)}; "
                f"rules exist for {', '.join(table)}"
            )
        placed.append(None if axis is None else table[axis])
    used = [mesh_axis for mesh_axis in placed if mesh_axis is not None]
    if len(set(used)) != len(used):
        raise ConfigError(f"axes {axes} of one parameter fall twice on one mesh axis: {placed}")
    return PartitionSpec(*placed)


def logical_axes(abstract_boxed: Any) -> Any:
    """Return the logical axis names of each parameter of `jax.eval_shape(model.init, ...)`."""

    def names(leaf: Any) -> tuple[str | None, ...]:
        if isinstance(leaf, nn.LogicallyPartitioned):
            return tuple(leaf.names)  # type: ignore[arg-type]
        return (None,) * leaf.ndim

    return jax.tree.map(names, abstract_boxed, is_leaf=_is_box)


def parameter_shardings(abstract_boxed: Any, rules: ShardingRules, mesh: AnyMesh) -> Any:
    """Return the `NamedSharding` of parameters whose logical axes are boxed by the model.

    Raises:
        ConfigError: a dimension that its mesh axis does not divide.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        names = logical_axes(leaf)
        spec = partition_spec(names, rules)
        shape = nn.unbox(leaf).shape
        for dim, name, mesh_axis in zip(shape, names, spec, strict=True):
            if mesh_axis is not None and dim % mesh.shape[mesh_axis]:
                raise ConfigError(
                    f"parameter {jax.tree_util.keystr(path)} of shape {shape} cannot be split: "
                    f"{dim} is not divisible by mesh axis {mesh_axis}={mesh.shape[mesh_axis]}; "
                    f"use a divisor of it, or keep a copy on each device (sharding.{name}=None)"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, abstract_boxed, is_leaf=_is_box)


def replicated(mesh: AnyMesh) -> NamedSharding:
    """Return the same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of rows [B, T] over the batch axes, of tokens over the time axes."""
    return NamedSharding(mesh, PartitionSpec(ACTIVATIONS.batch, ACTIVATIONS.time))


def batch_shards(mesh: AnyMesh) -> int:
    """Return the number of parts that the rows of a batch are split into."""
    return math.prod(mesh.shape[name] for name in ACTIVATIONS.batch)


def check_length(sequence_length: int, mesh: AnyMesh) -> None:
    """Refuse rows whose tokens cannot be split evenly.

    Raises:
        ConfigError: the time axes do not divide the length.
    """
    parts = math.prod(mesh.shape[name] for name in ACTIVATIONS.time)
    if sequence_length % parts:
        raise ConfigError(
            f"a sequence of {sequence_length} tokens is not divisible by mesh.context={parts}; "
            f"use a multiple of {parts}"
        )


def host_rows(mesh: Mesh, num_rows: int) -> list[int]:
    """Return the rows of a global batch that this host's devices hold, also in part; ascending. If
    an axis that splits a row, or one that splits no data, crosses hosts, several hosts hold the
    same rows.
    """
    rows_of = NamedSharding(mesh, PartitionSpec(batch_sharding(mesh).spec[0]))
    slices = rows_of.addressable_devices_indices_map((num_rows,)).values()
    return sorted({row for index in slices if index for row in _range_of(index[0], num_rows)})


def to_devices(batch: Batch, mesh: Mesh, num_rows: int | None = None) -> Batch:
    """Turn rows (NumPy) into one global batch on the mesh.

    Args:
        batch: all rows, the same on all hosts; or this host's rows.
        mesh: where they go.
        num_rows: of the global batch, where `batch` is only its `host_rows`.
    """
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.tree.map(lambda part: jax.device_put(np.asarray(part), sharding), batch)
    total = len(batch.tokens_BT) if num_rows is None else num_rows
    rows = np.arange(total) if num_rows is None else np.array(host_rows(mesh, total))

    def place(part: np.ndarray) -> jax.Array:
        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            wanted = _range_of(index[0], total)
            start = int(np.searchsorted(rows, wanted.start))
            return part[(slice(start, start + len(wanted)), *index[1:])]

        return jax.make_array_from_callback((total, *part.shape[1:]), sharding, shard)

    return jax.tree.map(lambda part: place(np.asarray(part)), batch)


def _range_of(rows: slice, num_rows: int) -> range:
    return range(*rows.indices(num_rows))


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)
