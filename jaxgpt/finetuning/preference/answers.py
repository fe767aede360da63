"""`Answers`: log-probabilities of whole answers, out of those of a packed batch's tokens.

A row holds sequences one after the other, as segments 1, 2, ...; two adjacent ones, (1, 2), (3, 4),
..., are an example.

Axes: B rows, T tokens of a row, S sequences of a row, P examples of a row, so that S = 2 P.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Answers(NamedTuple):
    """Answers, one per entry; all arrays are float32 of one shape.

    Attributes:
        policy: log pi(y | x) of the model that is trained, summed over the answer's tokens, nats.
        reference: the same of the model that training began from; 0 where no loss reads it.
        num_tokens: tokens of the answer, |y|; 0 where a row has no such sequence.
    """

    policy: jax.Array
    reference: jax.Array
    num_tokens: jax.Array

    @property
    def log_ratios(self) -> jax.Array:
        """Return log pi(y | x) - log pi_ref(y | x)."""
        return self.policy - self.reference

    def per_token(self) -> "Answers":
        """Return the means over an answer's tokens in place of the sums."""
        num_tokens = jnp.maximum(self.num_tokens, 1)
        return Answers(self.policy / num_tokens, self.reference / num_tokens, self.num_tokens)


def sequence_sums(values_BT: jax.Array, segment_ids_BT: jax.Array, num_segments: int) -> jax.Array:
    """Return the sums over each sequence, float32 [B, S]; entry s is that of segment s + 1.

    Each is a sum of its own, not a scatter, whose order of additions a GPU leaves to chance.

    Args:
        values_BT: what is summed.
        segment_ids_BT: int32, 0 for padding.
        num_segments: most segments of a row, S.
    """
    ids_S = jnp.arange(1, num_segments + 1, dtype=segment_ids_BT.dtype)
    is_of_BTS = segment_ids_BT[..., None] == ids_S
    return jnp.sum(jnp.where(is_of_BTS, values_BT.astype(jnp.float32)[..., None], 0), axis=1)


def split_examples(answers_BS: Answers) -> tuple[Answers, Answers, jax.Array]:
    """Return the first answers of all examples, the second ones, and which exist, each [B, P]."""
    first = Answers(*(values_BS[:, 0::2] for values_BS in answers_BS))
    second = Answers(*(values_BS[:, 1::2] for values_BS in answers_BS))
    exists_BP = (first.num_tokens > 0) & (second.num_tokens > 0)
    return first, second, exists_BP.astype(jnp.float32)
