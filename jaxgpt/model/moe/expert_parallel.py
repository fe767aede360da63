"""Devices that share the experts of a layer: who has which rows, and how tokens travel.

The mesh axis that the rules give to "expert" splits the experts, and outside of their layers the
rows of the batch like any other. Here every device works on the rows and experts it has, and the
collectives are written out: XLA need not guess them.

Axes: B rows, T tokens, E experts, C slots, D model, N tokens of all rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from jaxgpt.model.layers.placement import is_in_stage, placement
from jaxgpt.model.moe.router import Choice

# The name by which rematerialisation knows what came from other devices.
ARRIVED = "arrived from peers"


class Peers(NamedTuple):
    """The devices along the expert axis, as one of them sees it.

    Attributes:
        axis: name of the mesh axis; None if there is only this device.
        split_rows: whether each peer has rows of its own; else all have the same.
    """

    axis: str | None = None
    split_rows: bool = False

    @property
    def index(self) -> int | jax.Array:
        """This device's number: it has experts `index * E / peers` and on."""
        return 0 if self.axis is None else jax.lax.axis_index(self.axis)

    @property
    def num_devices(self) -> int:
        """Number of devices that share the experts."""
        return 1 if self.axis is None else jax.lax.axis_size(self.axis)

    def send(self, x_BECD: jax.Array) -> jax.Array:
        """Send this device's slots of all experts; get all rows' slots of its own experts."""
        if self.axis is None:
            return x_BECD
        if self.split_rows:
            sent = jax.lax.all_to_all(x_BECD, self.axis, split_axis=1, concat_axis=0, tiled=True)
            return checkpoint_name(sent, ARRIVED)
        own = x_BECD.shape[1] // jax.lax.axis_size(self.axis)
        return jax.lax.dynamic_slice_in_dim(x_BECD, self.index * own, own, axis=1)

    def send_back(self, y_BECD: jax.Array) -> jax.Array:
        """Undo `send`."""
        if self.axis is None:
            return y_BECD
        if self.split_rows:
            sent = jax.lax.all_to_all(y_BECD, self.axis, split_axis=0, concat_axis=1, tiled=True)
            return checkpoint_name(sent, ARRIVED)
        num_experts = y_BECD.shape[1] * jax.lax.axis_size(self.axis)
        all_BECD = jnp.zeros((y_BECD.shape[0], num_experts, *y_BECD.shape[2:]), y_BECD.dtype)
        first = self.index * y_BECD.shape[1]
        all_BECD = jax.lax.dynamic_update_slice_in_dim(all_BECD, y_BECD, first, axis=1)
        return jax.lax.psum(all_BECD, self.axis)

    def gather(self, rows: jax.Array) -> jax.Array:
        """Return the [N, ...] of all peers, in their order."""
        if self.axis is None or not self.split_rows:
            return rows
        return checkpoint_name(jax.lax.all_gather(rows, self.axis, axis=0, tiled=True), ARRIVED)

    def sum_and_scatter(self, rows: jax.Array) -> jax.Array:
        """Add up what each peer has for the gathered [N, ...]; return this device's part."""
        if self.axis is None:
            return rows
        if not self.split_rows:
            return jax.lax.psum(rows, self.axis)
        return jax.lax.psum_scatter(rows, self.axis, scatter_dimension=0, tiled=True)


# (parameters of the experts here, x_BTD, choice, peers) -> (y_BTD, dropped_B)
OnOwnRows = Callable[[Any, jax.Array, Choice, Peers], tuple[jax.Array, jax.Array]]


def on_each_device(
    function: OnOwnRows, params: Any, x_BTD: jax.Array, choice: Choice, split_time: bool
) -> tuple[jax.Array, jax.Array]:
    """Run a function on the rows and experts of each device.

    Without a mesh, or where nothing splits, it runs as it is. Mesh axes that split neither rows
    nor experts (tensor) stay XLA's business, and all of them do inside of a pipeline's stages.

    Args:
        function: uses `peers` for what it needs of other devices.
        params: leaves [E, ...].
        x_BTD: tokens.
        choice: of their experts.
        split_time: whether tokens of a row may lie on several devices; else a row is whole.
    """
    num_experts = jax.tree.leaves(params)[0].shape[0]
    time_name = "time" if split_time else None
    rows, time = placement(x_BTD.shape[:2], ("batch", time_name)) or (None, None)
    (experts,) = placement((num_experts,), ("expert",)) or (None,)
    manual = {*_names(rows), *_names(time), *_names(experts)}
    # Inside of a pipeline's stages JAX 0.10 cannot lower a second `shard_map` and its gradient.
    if not manual or is_in_stage():
        return function(params, x_BTD, choice, Peers())
    (axis,) = _names(experts) or (None,)
    peers = Peers(axis, split_rows=axis in _names(rows))

    def run_here(params: Any, x_BTD: jax.Array, choice: Choice) -> tuple[jax.Array, jax.Array]:
        # The names of axes stand for whole arrays; here each is a device's part.
        with nn.logical_axis_rules(()):
            return function(params, x_BTD, choice, peers)

    by_token = PartitionSpec(rows, time)
    run = jax.shard_map(
        run_here,
        in_specs=(PartitionSpec(experts), by_token, by_token),
        out_specs=(by_token, PartitionSpec(rows)),
        axis_names=manual,
        # Tracking what varies would have every sum in a hand-written gradient spelled out.
        check_vma=False,
    )
    return run(params, x_BTD, choice)


def _names(mesh_axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ()
