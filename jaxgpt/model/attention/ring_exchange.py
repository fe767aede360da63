"""The ring of devices that share a row: what passes along it, piece by piece, and how it is sent.

Keys and values travel one hop at a time; scores are computed for a piece of them at once, so that
memory does not grow with the length of the row. `ring.py` has the mathematics.

Axes: B batch, T query time, S key time, K key/value heads, H head; all are a device's own share.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxgpt.model.attention.kernel import Scores

# Scores are computed for so many keys at a time at most.
_MAX_KEYS = 1024


class RingSettings(NamedTuple):
    """Inputs without a gradient; `spec_*` as for `jax.shard_map`, or None."""

    scores: Scores
    window: int | None
    spec_BTNH: PartitionSpec | None
    spec_BSKH: PartitionSpec | None


class Passing(NamedTuple):
    """Keys and values of one device that pass another, or a piece of them."""

    k_BKSH: jax.Array
    v_BKSH: jax.Array
    segments_BS: jax.Array


def piece_size(num_tokens: int) -> int:
    """Return the keys per piece: the largest divisor of a device's keys below the limit."""
    return next(n for n in range(min(num_tokens, _MAX_KEYS), 0, -1) if num_tokens % n == 0)


def over_pieces(
    fold: Callable[[Any, Passing, jax.Array, Any], tuple[Any, Any]],
    settings: RingSettings,
    segments_BT: jax.Array,
    hop: jax.Array | int,
    carry: Any,
    passing: Passing,
    grads: Any,
) -> tuple[Any, Any]:
    """Fold what passes into `carry`, a piece of keys at a time; pieces that no query sees are left.

    Args:
        fold: (carry, piece, visible keys, the piece of `grads`) -> (carry, the piece of `grads`).
        settings: of the attention.
        segments_BT: of this device's queries.
        hop: how far what passes has come.
        carry: what is folded into.
        passing: keys, values and their segments.
        grads: tuple of arrays [B, K, S, H], cut into pieces like the keys.
    """
    num_tokens = segments_BT.shape[1]
    size = piece_size(num_tokens)
    me = jax.lax.axis_index(_ring(settings)) if _ring(settings) else 0
    owner = (me - hop) % ring_size(settings)
    slots_T1 = me * num_tokens + jnp.arange(num_tokens)[:, None]

    def cut(x: jax.Array, axis: int) -> jax.Array:
        pieces = x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :])
        return jnp.moveaxis(pieces, axis, 0)

    def fold_piece(carry: Any, inputs: Any) -> Any:
        start, piece, piece_grads = inputs
        first = owner * num_tokens + start
        distance_TS = slots_T1 - (first + jnp.arange(size))
        near_TS = distance_TS >= 0
        if settings.window is not None:
            near_TS &= distance_TS < settings.window
        same_BTS = segments_BT[:, :, None] == piece.segments_BS[:, None, :]
        visible_BTS = near_TS & same_BTS & (segments_BT[:, :, None] != 0)
        return jax.lax.cond(
            jnp.any(visible_BTS),
            lambda: fold(carry, piece, visible_BTS[:, None, None], piece_grads),
            lambda: (carry, piece_grads),
        )

    pieces = Passing(cut(passing.k_BKSH, 2), cut(passing.v_BKSH, 2), cut(passing.segments_BS, 1))
    inputs = (jnp.arange(0, num_tokens, size), pieces, tuple(cut(grad, 2) for grad in grads))
    carry, grads = jax.lax.scan(fold_piece, carry, inputs)
    return carry, tuple(jnp.moveaxis(g, 0, 2).reshape(passing.k_BKSH.shape) for g in grads)


def _ring(settings: RingSettings) -> tuple[str, ...]:
    """Return the mesh axes along which a row's tokens lie."""
    names = None if settings.spec_BTNH is None else settings.spec_BTNH[1]
    return (names,) if isinstance(names, str) else names or ()


def ring_size(settings: RingSettings) -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[name] for name in _ring(settings))


def send(settings: RingSettings, arrays: Any) -> Any:
    """Pass arrays on to the next device of the ring."""
    size = ring_size(settings)
    if size == 1:
        return arrays
    hops = [(device, (device + 1) % size) for device in range(size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, _ring(settings), hops), arrays)


def on_shards(function: Any, settings: RingSettings, in_specs: Any, out_specs: Any) -> Any:
    """Run `function` on each device's own share; on whole arrays where nothing is split."""
    # A loop over layers would compute what is alike in all of them, the masks of every piece, once
    # and keep it: [T, S] for each head, of the whole row. This says to keep nothing.
    function = jax.checkpoint(function, prevent_cse=False)
    if settings.spec_BTNH is None:
        return function
    # The axes that a caller (a pipeline's stages) has not split by hand already.
    mesh = jax.sharding.get_abstract_mesh()
    split = jax.shard_map(
        function,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names=set(mesh.auto_axes),
        check_vma=False,
    )
    if not mesh.manual_axes:
        return split

    def run(*inputs: jax.Array) -> Any:
        # Results that were not checked come back as if they were the same for each stage.
        return jax.tree.map(
            lambda result: jax.lax.pcast(result, mesh.manual_axes, to="varying"),
            split(*inputs),
        )

    return run


def time_spec(spec_BTNH: PartitionSpec | None) -> PartitionSpec | None:
    """Return the sharding of [B, T]."""
    return None if spec_BTNH is None else PartitionSpec(*spec_BTNH[:2])


def normaliser_spec(spec_BTNH: PartitionSpec | None) -> PartitionSpec | None:
    """Return the sharding of [B, K, G, T, 1]."""
    if spec_BTNH is None:
        return None
    return PartitionSpec(spec_BTNH[0], spec_BTNH[2], None, spec_BTNH[1], None)
