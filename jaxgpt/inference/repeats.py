"""DRY ("Don't Repeat Yourself"): a token that would go on with a repeated sequence is penalised.

For each earlier place, the sequence before it is compared with the sequence at the end of the text.
A token that followed n equal tokens there gets multiplier * base^(n - allowed length) less, if n is
at least the allowed length. A breaker, such as a line end, ends the comparison, so that what every
line begins with is no repetition. By p-e-w for text-generation-webui (its pull request 5677); the
fields are those of llama.cpp.

Axes: B rows, T places of a row's text, V padded vocabulary.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

# As in text-generation-webui: what is longer would not be penalised any more noticeably.
LONGEST_MATCH = 50
# What text-generation-webui and llama.cpp begin with: ends of lines, names, quotations, lists.
DEFAULT_BREAKERS = ("\n", ":", '"', "*")
# Scores stay finite, however large the base is.
_LARGEST_PENALTY = 1e30


class DrySettings(Protocol):
    """The settings of each row, arrays [B]; see `SamplingConfig`."""

    @property
    def dry_multiplier_B(self) -> ArrayLike: ...
    @property
    def dry_base_B(self) -> ArrayLike: ...
    @property
    def dry_allowed_length_B(self) -> ArrayLike: ...
    @property
    def dry_last_n_B(self) -> ArrayLike: ...


class DryRows(NamedTuple):
    """The settings of each row as arrays [B]."""

    dry_multiplier_B: ArrayLike
    dry_base_B: ArrayLike
    dry_allowed_length_B: ArrayLike
    dry_last_n_B: ArrayLike


class RowTexts(NamedTuple):
    """The text of each row, as ids.

    Attributes:
        tokens_BT: int32, the prompt and what was drawn, in their order; any id behind them.
        breakers_BV: bool, ids that end a sequence.
        lengths_B: int32, tokens of each row that count.
    """

    tokens_BT: Array
    breakers_BV: Array
    lengths_B: Array


def penalize_repeats(
    scores_BV: Array,
    settings: DrySettings,
    tokens_BT: Array,
    breakers_BV: Array,
    lengths_B: Array,
) -> Array:
    """Lower the scores of tokens that would go on with a repeated sequence.

    Args:
        scores_BV: float32.
        settings: rows with a multiplier of 0 keep their scores, bit for bit.
        tokens_BT: int32, the prompt and what was drawn.
        breakers_BV: bool, ids that end a sequence.
        lengths_B: int32, tokens of each row that count.
    """
    matched_BV = jax.vmap(_longest_matches)(
        tokens_BT, breakers_BV, lengths_B, jnp.asarray(settings.dry_last_n_B)
    )
    excess_BV = matched_BV - jnp.asarray(settings.dry_allowed_length_B)[:, None]
    multiplier_B1 = jnp.asarray(settings.dry_multiplier_B)[:, None]
    penalty_BV = multiplier_B1 * jnp.power(jnp.asarray(settings.dry_base_B)[:, None], excess_BV)
    penalty_BV = jnp.minimum(penalty_BV, _LARGEST_PENALTY)
    is_penalised_BV = (matched_BV > 0) & (excess_BV >= 0) & (multiplier_B1 > 0)
    return jnp.where(is_penalised_BV, scores_BV - penalty_BV, scores_BV)


def _longest_matches(tokens_T: Array, breakers_V: Array, length: Array, last_n: Array) -> Array:
    """Return int32 [V]: the longest sequence that ended before a token, and ends the text now.

    A breaker ends a sequence and is part of none; the token after a sequence may not be one either.
    """
    places_T = jnp.arange(tokens_T.shape[0])
    first = jnp.maximum(length - last_n, 0)
    breaks_T = breakers_V[tokens_T]
    # A place is compared by the sequence that ends there; the text's own end is no earlier place.
    # Going back a step shifts the text against itself.
    start_T = (places_T >= first) & (places_T < length - 1)

    def go_on(carry: tuple[Array, Array, Array]) -> Array:
        step, alive_T, _ = carry
        return jnp.any(alive_T) & (step < LONGEST_MATCH)

    def compare(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        step, alive_T, matched_T = carry
        back_T = places_T - step
        last = jnp.maximum(length - 1 - step, 0)
        alive_T &= (back_T >= first) & ~breaks_T[last]
        alive_T &= tokens_T[jnp.maximum(back_T, 0)] == tokens_T[last]
        return step + 1, alive_T, matched_T + alive_T

    nothing_T = jnp.zeros_like(tokens_T)
    _, _, matched_T = jax.lax.while_loop(go_on, compare, (jnp.int32(0), start_T, nothing_T))
    following_T = jnp.roll(tokens_T, -1)
    matched_T = jnp.where(jnp.roll(breaks_T, -1), 0, matched_T)
    return jnp.zeros(breakers_V.shape, jnp.int32).at[following_T].max(matched_T)
