"""A cache whose rows get several tokens at once, each of them a row of its own to the model.

So a model reads T tokens of a text as decoding reads T texts, one token each: all that is computed
token by token, such as a product or the choice of experts, is what it is in a step of decoding.
Attention alone is told which rows are one text.

Axes: X = B * T rows of one token, B rows of the cache, T tokens of each, K key/value heads, H head.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxgpt.model.attention.kv_cache import KVCache


@flax.struct.dataclass
class TokensAsRows(KVCache):
    """The next T tokens of each row of a cache, as X rows; made by `tokens_as_rows`.

    Attributes:
        kept: the cache. Its own lengths stay: which tokens count is decided later.
        num_tokens: T.
    """

    kept: KVCache
    num_tokens: int = flax.struct.field(pytree_node=False)

    def write(
        self, layer: int, k_BTKH: jax.Array, v_BTKH: jax.Array, slots_BT: jax.Array
    ) -> "TokensAsRows":
        """Return a cache with one layer's new keys and values [X, 1, K, H] in their slots."""
        new = (self.by_row(x) for x in (k_BTKH, v_BTKH, slots_BT))
        return dataclasses.replace(self, kept=self.kept.write(layer, *new))

    def read(self, layer: int) -> tuple[Any, Any]:
        """Return k_BSKH and v_BSKH of one layer, with the cache's own rows."""
        return self.kept.read(layer)

    def by_row(self, x_BT: jax.Array) -> jax.Array:
        """Return an array [X, 1, ...] as [B, T, ...]."""
        return x_BT.reshape(-1, self.num_tokens, *x_BT.shape[2:])

    def advance(self, valid_BT: jax.Array) -> "TokensAsRows":
        """Return the cache as it is."""
        return self


def tokens_as_rows(cache: KVCache, num_tokens: int) -> TokensAsRows:
    """Return a cache that takes the next `num_tokens` tokens of each row as rows of one token."""
    lengths_BT = cache.lengths_B[:, None] + jnp.arange(num_tokens, dtype=jnp.int32)
    return TokensAsRows((), (), lengths_BT.reshape(-1), cache, num_tokens)
