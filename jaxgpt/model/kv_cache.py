"""The keys and values of tokens already read, so that decoding reads each token once.

A fixed-size pytree: it can be donated to a jitted step, and rows may be of different lengths.

Axes: L layers, B batch, T new tokens, S slots (the longest sequence that fits), K key/value heads,
H head.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class KVCache:
    """Keys and values by layer, row and slot; slot s of a row holds its token number s.

    Attributes:
        k_LBSKH: keys, already rotated if positions are rotary.
        v_LBSKH: values.
        lengths_B: int32, number of tokens each row holds; slots from there on are never seen.
    """

    k_LBSKH: jax.Array
    v_LBSKH: jax.Array
    lengths_B: jax.Array

    @property
    def max_length(self) -> int:
        """Number of slots of a row."""
        return self.k_LBSKH.shape[2]

    def new_slots(self, valid_BT: jax.Array) -> jax.Array:
        """Slots for T new tokens a row, int32 [B, T]; -1 for those that are padding.

        Valid tokens come first in a row. A slot may lie beyond the last: `write` drops it.
        """
        slots_BT = self.lengths_B[:, None] + jnp.arange(valid_BT.shape[1], dtype=jnp.int32)
        return jnp.where(valid_BT, slots_BT, -1)

    def write(
        self, layer: int | jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, slots_BT: jax.Array
    ) -> "KVCache":
        """Return a cache with one layer's new keys and values in their slots.

        Tokens in slot -1 or beyond the last slot are dropped. Lengths do not change: that is
        `advance`, once all layers have written.
        """
        rows_B1 = jnp.arange(slots_BT.shape[0])[:, None]
        # A negative index would count from the end; one past the end is dropped.
        targets_BT = jnp.where(slots_BT < 0, self.max_length, slots_BT)
        place = (layer, rows_B1, targets_BT)
        return dataclasses.replace(
            self,
            k_LBSKH=self.k_LBSKH.at[place].set(k_BTKH.astype(self.k_LBSKH.dtype), mode="drop"),
            v_LBSKH=self.v_LBSKH.at[place].set(v_BTKH.astype(self.v_LBSKH.dtype), mode="drop"),
        )

    def read(self, layer: int | jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return k_BSKH and v_BSKH of one layer, every slot."""
        return self.k_LBSKH[layer], self.v_LBSKH[layer]

    def advance(self, valid_BT: jax.Array) -> "KVCache":
        """Return the cache with the valid tokens counted, up to the number of slots."""
        added_B = jnp.sum(valid_BT, axis=1, dtype=jnp.int32)
        return dataclasses.replace(
            self, lengths_B=jnp.minimum(self.lengths_B + added_B, self.max_length)
        )


def empty_cache(
    num_layers: int,
    batch_size: int,
    max_length: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: str,
) -> KVCache:
    """Return a cache of `batch_size` rows that hold no token yet."""
    shape = (num_layers, batch_size, max_length, num_kv_heads, head_dim)
    return KVCache(
        k_LBSKH=jnp.zeros(shape, jnp.dtype(dtype)),
        v_LBSKH=jnp.zeros(shape, jnp.dtype(dtype)),
        lengths_B=jnp.zeros((batch_size,), jnp.int32),
    )
