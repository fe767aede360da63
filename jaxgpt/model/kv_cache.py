"""The keys and values of tokens already read, so that decoding reads each token once.

A fixed-size pytree: it can be donated to a jitted step, and rows may be of different lengths.

A head's slots lie together, as attention multiplies them: the other way round every step would copy
all of the cache.

Axes: L layers, B batch, T new tokens, K key/value heads, S slots (the longest sequence that fits),
H head.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from jaxgpt.model.bits import bits_of, numbers_of


@flax.struct.dataclass
class KVCache:
    """Keys and values by layer, row and slot; slot s of a row holds its token number s.

    Attributes:
        k_LBKSH: keys, already rotated if positions are rotary; of 16-bit numbers the bits, as
            integers (see `bits.py`).
        v_LBKSH: values, likewise.
        lengths_B: int32, number of tokens each row holds; slots from there on are never seen.
        dtype: of keys and values.
    """

    k_LBKSH: jax.Array
    v_LBKSH: jax.Array
    lengths_B: jax.Array
    dtype: str = flax.struct.field(pytree_node=False)

    @property
    def max_length(self) -> int:
        """Number of slots of a row."""
        return self.k_LBKSH.shape[3]

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

        def put(kept_LBKSH: jax.Array, new_BTKH: jax.Array) -> jax.Array:
            new_BTKH = bits_of(new_BTKH.astype(jnp.dtype(self.dtype)))
            return kept_LBKSH.at[layer, rows_B1, :, targets_BT].set(new_BTKH, mode="drop")

        return dataclasses.replace(
            self, k_LBKSH=put(self.k_LBKSH, k_BTKH), v_LBKSH=put(self.v_LBKSH, v_BTKH)
        )

    def read(self, layer: int | jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return k_BSKH and v_BSKH of one layer, every slot."""

        def get(kept_LBKSH: jax.Array) -> jax.Array:
            return numbers_of(kept_LBKSH[layer], self.dtype).swapaxes(1, 2)

        return get(self.k_LBKSH), get(self.v_LBKSH)

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
    shape = (num_layers, batch_size, num_kv_heads, max_length, head_dim)
    return KVCache(
        k_LBKSH=bits_of(jnp.zeros(shape, jnp.dtype(dtype))),
        v_LBKSH=bits_of(jnp.zeros(shape, jnp.dtype(dtype))),
        lengths_B=jnp.zeros((batch_size,), jnp.int32),
        dtype=dtype,
    )
