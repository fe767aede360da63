"""Pooling: from the hidden states of a text's tokens to the one that its label is read from."""

import jax

from jaxgpt.config import configclass
from jaxgpt.finetuning.segments import last_states, mean_states


@configclass
class Pooling:
    """Base of the ways to pool."""

    def pool(self, x_BTD: jax.Array, segment_ids_BT: jax.Array, num_segments: int) -> jax.Array:
        """Return a hidden state for each sequence, [B, S, D]."""
        raise NotImplementedError(f"{type(self).__name__} has no pool")


@configclass
class LastToken(Pooling):
    """Hidden state of the last token, the only one that has seen all of a text."""

    def pool(self, x_BTD: jax.Array, segment_ids_BT: jax.Array, num_segments: int) -> jax.Array:
        return last_states(x_BTD, segment_ids_BT, num_segments)


@configclass
class MeanOfTokens(Pooling):
    """Mean of the hidden states of all tokens."""

    def pool(self, x_BTD: jax.Array, segment_ids_BT: jax.Array, num_segments: int) -> jax.Array:
        return mean_states(x_BTD, segment_ids_BT, num_segments)
