"""The keys and values of tokens already read, so that decoding reads each token once.

A fixed-size pytree: it can be donated to a jitted step, and rows may be of different lengths.

It lies as attention multiplies it, since otherwise every step would copy all of the cache: a head's
slots together, and each layer in an array of its own, which need not be cut out of a stack.

Axes: B batch, T new tokens, K key/value heads, S slots (the longest sequence
that fits), H head.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class KVCache:
    """Keys and values by layer, row and slot; slot s of a row holds its token number s.

    Attributes:
        k_BKSH: keys of each layer, already rotated if positions are rotary.
        v_BKSH: values of each layer, likewise.
        lengths_B: int32, number of tokens each row holds; slots from there on are never seen.
    """

    k_BKSH: tuple[jax.Array, ...]
    v_BKSH: tuple[jax.Array, ...]
    lengths_B: jax.Array

    @property
    def max_length(self) -> int:
        """Number of slots of a row."""
        return self.v_BKSH[0].shape[2]

    def new_slots(self, valid_BT: jax.Array) -> jax.Array:
        """Return slots for T new tokens a row, int32 [B, T]; -1 for those that are padding.

        Valid tokens come first in a row. A slot may lie beyond the last: `write` drops it.
        """
        slots_BT = self.lengths_B[:, None] + jnp.arange(valid_BT.shape[1], dtype=jnp.int32)
        return jnp.where(valid_BT, slots_BT, -1)

    def write(
        self, layer: int, k_BTKH: jax.Array, v_BTKH: jax.Array, slots_BT: jax.Array
    ) -> "KVCache":
        """Return a cache with one layer's new keys and values in their slots.

        Tokens in slot -1 or beyond the last slot are dropped. Lengths do not change: that is
        `advance`, once all layers have written.
        """
        return dataclasses.replace(
            self,
            k_BKSH=put_in_slots(self.k_BKSH, layer, k_BTKH, slots_BT),
            v_BKSH=put_in_slots(self.v_BKSH, layer, v_BTKH, slots_BT),
        )

    def read(self, layer: int) -> tuple[Any, Any]:
        """Return k_BSKH and v_BSKH of one layer, every slot.

        Each is an array, or becomes one by `astype`; its leaves have the axes B, S and K in front.
        """
        return self.k_BKSH[layer].swapaxes(1, 2), self.v_BKSH[layer].swapaxes(1, 2)

    def advance(self, valid_BT: jax.Array) -> "KVCache":
        """Return the cache with the valid tokens counted, up to the number of slots."""
        added_B = jnp.sum(valid_BT, axis=1, dtype=jnp.int32)
        return dataclasses.replace(
            self, lengths_B=jnp.minimum(self.lengths_B + added_B, self.max_length)
        )


def put_in_slots(
    layers: tuple[jax.Array, ...], layer: int, new_BTK: jax.Array, slots_BT: jax.Array
) -> tuple[jax.Array, ...]:
    """Return one array per layer, [B, K, S, ...], with a layer's new numbers [B, T, K, ...]."""
    batch_size, num_heads, max_length = layers[layer].shape[:3]
    rows_B11 = jnp.arange(batch_size)[:, None, None]
    heads_K1 = jnp.arange(num_heads)[:, None]
    # A negative index would count from the end; one past the end is dropped.
    targets_B1T = jnp.where(slots_BT < 0, max_length, slots_BT)[:, None]
    new_BKT = new_BTK.astype(layers[layer].dtype).swapaxes(1, 2)
    # Head by head: what has one index only, XLA's CPU backend writes into a copy.
    written = layers[layer].at[rows_B11, heads_K1, targets_B1T].set(new_BKT, mode="drop")
    return (*layers[:layer], written, *layers[layer + 1 :])


# What makes a cache; takes what `empty_cache` takes.
MakeCache = Callable[[int, int, int, int, int, str], KVCache]


def empty_cache(
    num_layers: int,
    batch_size: int,
    max_length: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: str,
) -> KVCache:
    """Return a cache of `batch_size` rows that hold no token yet.

    Args:
        num_layers: of the model.
        batch_size: B.
        max_length: S.
        num_kv_heads: K.
        head_dim: H.
        dtype: of keys and values.
    """
    shape = (batch_size, num_kv_heads, max_length, head_dim)

    def layers() -> tuple[jax.Array, ...]:
        return tuple(jnp.zeros(shape, jnp.dtype(dtype)) for _ in range(num_layers))

    return KVCache(
        k_BKSH=layers(),
        v_BKSH=layers(),
        lengths_B=jnp.zeros((batch_size,), jnp.int32),
    )
