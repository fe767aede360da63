"""Masks: the keys that a query may see, as pure predicates without scores.

Axes: B batch, T query time, S key time.
"""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class AttentionMask:
    """Describes the visible keys of each query without spelling out a [T, S] array.

    Query t sees key s if all hold: s <= slot(t); slot(t) - s < window; their segments are equal.
    A query that sees no key (padding) gets zeros from attention.

    Attributes:
        segment_ids_BT: int32, segments of queries and keys alike (T = S), 0 for padding;
            None if every token of a row belongs to one segment.
        query_slots_BT: int32, the key slot that each query itself stands in, -1 for padding;
            None if query t stands in slot t.
        window: how many keys a query sees, itself included; None for all up to itself.
    """

    segment_ids_BT: jax.Array | None = None
    query_slots_BT: jax.Array | None = None
    window: int | None = flax.struct.field(pytree_node=False, default=None)


def visible_keys(mask: AttentionMask, queries: slice, keys: slice) -> jax.Array:
    """Spell out a part of a mask: bool [B or 1, T, S], true where the query sees the key.

    Args:
        mask: which keys are visible.
        queries: the queries wanted, as a slice with start and stop.
        keys: the keys wanted, likewise.
    """
    if mask.query_slots_BT is None:
        slots_BT = jnp.arange(queries.start, queries.stop)[None, :]
    else:
        slots_BT = mask.query_slots_BT[:, queries]
    distance_BTS = slots_BT[:, :, None] - jnp.arange(keys.start, keys.stop)[None, None, :]
    visible_BTS = distance_BTS >= 0
    if mask.window is not None:
        visible_BTS &= distance_BTS < mask.window
    if mask.segment_ids_BT is not None:
        query_segments_BT1 = mask.segment_ids_BT[:, queries, None]
        key_segments_B1S = mask.segment_ids_BT[:, None, keys]
        visible_BTS &= (query_segments_BT1 == key_segments_B1S) & (query_segments_BT1 != 0)
    return visible_BTS
