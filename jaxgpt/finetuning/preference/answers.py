"""`Answers`: log-probabilities of whole answers, out of those of a packed batch's tokens.

A row holds sequences one after the other, as segments 1, 2, ...; two adjacent ones, (1, 2), (3, 4),
..., are an example. With pi the model and pi_ref the one that training began from, the log-ratio of
an answer y to a prompt x is

    h(y) = log pi(y | x) - log pi_ref(y | x)

Axes: B rows, T tokens of a row, S sequences of a row, P examples of a row, so that S = 2 P.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Answers(NamedTuple):
    """Answers, one per entry; all arrays are float32 of one shape.

    Attributes:
        policy: log pi(y | x) of the model that is trained, summed over the answer's tokens, nats.
        reference: log pi_ref(y | x), in the same way; 0 where no loss reads it.
        num_tokens: tokens of the answer, |y|; 0 where a row has no such sequence.
    """

    policy: jax.Array
    reference: jax.Array
    num_tokens: jax.Array

    @property
    def log_ratios(self) -> jax.Array:
        """Return h(y)."""
        return self.policy - self.reference

    def per_token(self) -> "Answers":
        """Return the means over an answer's tokens in place of the sums."""
        num_tokens = jnp.maximum(self.num_tokens, 1)
        return Answers(self.policy / num_tokens, self.reference / num_tokens, self.num_tokens)


def split_examples(answers_BS: Answers) -> tuple[Answers, Answers, jax.Array]:
    """Return the first answers of all examples, the second ones, and which exist, each [B, P]."""
    first = Answers(*(values_BS[:, 0::2] for values_BS in answers_BS))
    second = Answers(*(values_BS[:, 1::2] for values_BS in answers_BS))
    exists_BP = (first.num_tokens > 0) & (second.num_tokens > 0)
    return first, second, exists_BP.astype(jnp.float32)
