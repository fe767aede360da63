"""The keys and values of tokens already read, so that decoding reads each token once.

A fixed-size pytree: it can be donated to a jitted step, and rows may be of different lengths.

It lies as attention multiplies it, since otherwise every step would copy all of the cache: a head's
slots together, and each layer in arrays of its own, which need not be cut out of a stack. A layer
is one array, or several blocks of slots where a kernel reads some of them only.

Axes: B batch, T new tokens, K key/value heads, S slots (the longest sequence
that fits), C slots of a block, H head.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxgpt.model.layers.placement import constrain

# Blocks of slots of each layer.
Layers = tuple[tuple[jax.Array, ...], ...]


@flax.struct.dataclass
class KVCache:
    """Keys and values by layer, row and slot; slot s of a row holds its token number s.

    Attributes:
        k_BKCH: keys of each layer, in blocks of slots, already rotated if positions are rotary.
        v_BKCH: values of each layer, likewise.
        lengths_B: int32, number of tokens each row holds; slots from there on are never seen.
    """

    k_BKCH: Layers
    v_BKCH: Layers
    lengths_B: jax.Array

    @property
    def max_length(self) -> int:
        """Number of slots of a row."""
        return sum(block_BKCH.shape[2] for block_BKCH in self.v_BKCH[0])

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
            k_BKCH=put_in_slots(self.k_BKCH, layer, k_BTKH, slots_BT),
            v_BKCH=put_in_slots(self.v_BKCH, layer, v_BTKH, slots_BT),
        )

    def read(self, layer: int) -> tuple[Any, Any]:
        """Return k_BSKH and v_BSKH of one layer, every slot.

        Each is an array, or becomes one by `astype`; its leaves have the axes B, S and K in front.
        """
        return join_blocks(self.k_BKCH[layer]), join_blocks(self.v_BKCH[layer])

    def by_row(self, x_BT: jax.Array) -> jax.Array:
        """Return an array of new tokens, [B, T, ...], with a row for each row that `read` gives."""
        return x_BT

    def advance(self, valid_BT: jax.Array) -> "KVCache":
        """Return the cache with the valid tokens counted, up to the number of slots."""
        added_B = jnp.sum(valid_BT, axis=1, dtype=jnp.int32)
        return dataclasses.replace(
            self, lengths_B=jnp.minimum(self.lengths_B + added_B, self.max_length)
        )


def put_in_slots(layers: Layers, layer: int, new_BTK: jax.Array, slots_BT: jax.Array) -> Layers:
    """Return the layers' blocks, [B, K, C, ...], with a layer's new numbers [B, T, K, ...]."""
    batch_size, num_heads = layers[layer][0].shape[:2]
    rows_B11 = jnp.arange(batch_size)[:, None, None]
    heads_K1 = jnp.arange(num_heads)[:, None]
    new_BKT = new_BTK.astype(layers[layer][0].dtype).swapaxes(1, 2)
    written, start = [], 0
    for block in layers[layer]:
        length = block.shape[2]
        # A negative index would count from the end; one past the end is dropped.
        places_B1T = jnp.where(slots_BT < start, length, slots_BT - start)[:, None]
        # Head by head: what has one index only, XLA's CPU backend writes into a copy.
        put = block.at[rows_B11, heads_K1, places_B1T].set(new_BKT, mode="drop")
        written.append(_place(put))
        start += length
    return (*layers[:layer], tuple(written), *layers[layer + 1 :])


def join_blocks(blocks: tuple[jax.Array, ...]) -> jax.Array:
    """Return a layer's blocks, [B, K, C, ...], as one array [B, S, K, ...]."""
    # Pieces of what was just joined are the pieces, to the compiler.
    return jnp.concatenate(blocks, axis=2).swapaxes(1, 2)


def _place(kept_BKC: jax.Array) -> jax.Array:
    """Put rows and heads where the layers' keys and values lie."""
    return constrain(kept_BKC, "batch", "kv_heads", *[None] * (kept_BKC.ndim - 2))


# What makes a cache; takes what `empty_cache` takes.
MakeCache = Callable[[int, int, tuple[int, ...], int, int, str], KVCache]


def empty_cache(
    num_layers: int,
    batch_size: int,
    block_lengths: tuple[int, ...],
    num_kv_heads: int,
    head_dim: int,
    dtype: str,
) -> KVCache:
    """Return a cache of `batch_size` rows that hold no token yet.

    Args:
        num_layers: of the model.
        batch_size: B.
        block_lengths: C of each block of slots; S is their sum.
        num_kv_heads: K.
        head_dim: H.
        dtype: of keys and values.
    """

    def layers() -> Layers:
        return tuple(
            tuple(
                _place(jnp.zeros((batch_size, num_kv_heads, length, head_dim), jnp.dtype(dtype)))
                for length in block_lengths
            )
            for _ in range(num_layers)
        )

    return KVCache(
        k_BKCH=layers(),
        v_BKCH=layers(),
        lengths_B=jnp.zeros((batch_size,), jnp.int32),
    )
