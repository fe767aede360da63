"""Sampling with settings that differ from row to row: one program draws for all of them.

What a row draws depends on its own scores, settings, key and place alone, bit for bit: a filter
that some row needs is computed for all, and leaves the scores of the others as they were.

Axes: B rows, V padded vocabulary, K likeliest tokens, T places of a row's text.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgpt.inference.engine.drawing.request_sampling import MOST_TOP_TOKENS, RequestSampling
from jaxgpt.inference.repeats import penalize_repeats
from jaxgpt.inference.sampling import (
    draw,
    keep_min_p,
    likeliest,
    penalize_repetition,
    scale_by_temperature,
)
from jaxgpt.inference.top_choices import exclude_top_choices

_MOST = 2**31 - 1
_LEAST_TOP_P = 1e-6
NOT_FINITE, NOTHING_ALLOWED = -1, -2


class RowSettings(NamedTuple):
    """Sampling settings of each row, as arrays [B]; `key_data_B2` is [B, 2].

    Rows with `top_k` 0 draw from all tokens.
    """

    temperature_B: np.ndarray
    top_k_B: np.ndarray
    top_p_B: np.ndarray
    min_p_B: np.ndarray
    repetition_B: np.ndarray
    frequency_B: np.ndarray
    presence_B: np.ndarray
    min_new_tokens_B: np.ndarray
    dry_multiplier_B: np.ndarray
    dry_base_B: np.ndarray
    dry_allowed_length_B: np.ndarray
    dry_last_n_B: np.ndarray
    xtc_probability_B: np.ndarray
    xtc_threshold_B: np.ndarray
    key_data_B2: np.ndarray
    wants_top_B: np.ndarray

    @classmethod
    def defaults(cls, num_rows: int) -> "RowSettings":
        """Return settings of rows that nobody uses: the likeliest token, no filter."""

        def full(value: float, dtype: type = np.float32) -> np.ndarray:
            return np.full(num_rows, value, dtype)

        return cls(
            temperature_B=full(0),
            top_k_B=full(0, np.int32),
            top_p_B=full(1),
            min_p_B=full(0),
            repetition_B=full(1),
            frequency_B=full(0),
            presence_B=full(0),
            min_new_tokens_B=full(0, np.int32),
            dry_multiplier_B=full(0),
            dry_base_B=full(1),
            dry_allowed_length_B=full(0, np.int32),
            dry_last_n_B=full(_MOST, np.int32),
            xtc_probability_B=full(0),
            xtc_threshold_B=full(1),
            key_data_B2=np.zeros((num_rows, 2), np.uint32),
            wants_top_B=full(0, np.bool_),
        )

    def put(
        self, row: int, sampling: RequestSampling, key_data_2: np.ndarray, wants_top: bool
    ) -> None:
        """Give a row the settings of a request."""
        self.temperature_B[row] = sampling.temperature
        self.top_k_B[row] = min(sampling.top_k or 0, _MOST)
        # Smaller shares are none in float32, and would leave no token.
        self.top_p_B[row] = max(sampling.top_p, _LEAST_TOP_P)
        self.min_p_B[row] = sampling.min_p
        self.repetition_B[row] = sampling.repetition_penalty
        self.frequency_B[row] = sampling.frequency_penalty
        self.presence_B[row] = sampling.presence_penalty
        self.min_new_tokens_B[row] = min(sampling.min_new_tokens, _MOST)
        for name, values_1 in sampling.dry_rows(1)._asdict().items():
            getattr(self, name)[row] = values_1[0]
        self.xtc_probability_B[row] = sampling.xtc_probability
        self.xtc_threshold_B[row] = sampling.xtc_threshold
        self.key_data_B2[row] = key_data_2
        self.wants_top_B[row] = wants_top

    def rows(self, rows: slice | np.ndarray) -> "RowSettings":
        """Return copies of the settings of some rows, which later requests do not change."""
        return RowSettings(*(field[rows].copy() for field in self))


class Seen(NamedTuple):
    """Tokens that rows have, and biases of those that they may draw.

    Attributes:
        prompt_BV: bool, ids of the prompt.
        drawn_BV: int32, how often each id was drawn.
        bias_BV: float32, added to the scores; -inf forbids an id.
        tokens_BT: int32, the prompt and what was drawn, in their order.
        breakers_BV: bool, ids at which a sequence of tokens ends; see repeats.py.
    """

    prompt_BV: Array
    drawn_BV: Array
    bias_BV: Array
    tokens_BT: Array
    breakers_BV: Array

    def begin(self, row: Array, first: "Seen") -> "Seen":
        """Let a row have what a request begins with, given without the axis B."""
        return jax.tree.map(lambda all_, new: all_.at[row].set(new), self, first)

    def add(self, rows_B: Array, tokens_B: Array, places_B: Array, active_B: Array) -> "Seen":
        """Add a drawn token to each of some rows; to those that are not active, nothing."""
        tokens_BT = self.tokens_BT
        written_B = jnp.where(active_B, tokens_B, tokens_BT[rows_B, places_B])
        return self._replace(
            drawn_BV=self.drawn_BV.at[rows_B, tokens_B].add(active_B.astype(jnp.int32)),
            tokens_BT=tokens_BT.at[rows_B, places_B].set(written_B),
        )


class Drawn(NamedTuple):
    """Drawn tokens of the rows with the model's own scores.

    Attributes:
        tokens_B: int32; `NOT_FINITE` where the scores are not, `NOTHING_ALLOWED` where no id is.
        log_probabilities_B: float32.
        top_ids_BK: int32, likeliest first; zeros unless some row asks for them.
        top_log_probabilities_BK: float32, likewise.
    """

    tokens_B: Array
    log_probabilities_B: Array
    top_ids_BK: Array
    top_log_probabilities_BK: Array


def draw_rows(
    logits_BV: Array,
    settings: RowSettings,
    seen: Seen,
    allowed_BV: Array,
    stop_V: ArrayLike,
    positions_B: Array,
) -> Drawn:
    """Draw one token a row.

    Args:
        logits_BV: float32 scores of the model.
        settings: how each row draws.
        seen: what each row has.
        allowed_BV: bool, what constraints allow.
        stop_V: bool, ids that end an answer.
        positions_B: int32, place of the drawn token in its row.
    """
    early_B = jnp.sum(seen.drawn_BV, axis=1) < settings.min_new_tokens_B
    allowed_BV = allowed_BV & ~(early_B[:, None] & stop_V) & (seen.bias_BV > -jnp.inf)
    finite_B = jnp.all(jnp.where(allowed_BV, jnp.isfinite(logits_BV), True), axis=-1)
    scores_BV = jnp.where(allowed_BV, logits_BV + seen.bias_BV, -jnp.inf)
    scores_BV = _penalize(scores_BV, settings, seen, positions_B)
    tokens_B = jax.lax.cond(
        jnp.any(settings.temperature_B > 0),
        lambda: _draw(scores_BV, settings, positions_B),
        lambda: likeliest(scores_BV),
    )
    possible_B = jnp.any(scores_BV > -jnp.inf, axis=-1)
    tokens_B = jnp.where(possible_B, tokens_B, NOTHING_ALLOWED)
    tokens_B = jnp.where(finite_B, tokens_B, NOT_FINITE)
    scores = score_tokens(logits_BV, jnp.maximum(tokens_B, 0), jnp.any(settings.wants_top_B))
    return scores._replace(tokens_B=tokens_B)


def score_tokens(logits_BV: Array, tokens_B: Array, wants_top: Array) -> Drawn:
    """Return the model's log-probabilities of given tokens, and the likeliest ones if wanted."""
    log_total_B1 = jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)
    chosen_B = jnp.take_along_axis(logits_BV, tokens_B[:, None], axis=-1)[:, 0]
    num_top = min(MOST_TOP_TOKENS, logits_BV.shape[-1])

    def top() -> tuple[Array, Array]:
        values_BK, ids_BK = jax.lax.top_k(logits_BV, num_top)
        return values_BK - log_total_B1, ids_BK

    def none() -> tuple[Array, Array]:
        shape = (logits_BV.shape[0], num_top)
        return jnp.zeros(shape, logits_BV.dtype), jnp.zeros(shape, jnp.int32)

    top_BK, ids_BK = jax.lax.cond(wants_top, top, none)
    return Drawn(tokens_B, chosen_B - log_total_B1[:, 0], ids_BK, top_BK)


def _penalize(scores_BV: Array, settings: RowSettings, seen: Seen, positions_B: Array) -> Array:
    """Apply the penalties of repetition, frequency and presence, and of repeated sequences."""
    drawn_BV = seen.drawn_BV > 0
    scores_BV = penalize_repetition(
        scores_BV, seen.prompt_BV | drawn_BV, settings.repetition_B[:, None]
    )
    scores_BV -= settings.frequency_B[:, None] * seen.drawn_BV
    scores_BV -= settings.presence_B[:, None] * drawn_BV
    return jax.lax.cond(
        jnp.any(settings.dry_multiplier_B > 0),
        lambda: penalize_repeats(
            scores_BV, settings, seen.tokens_BT, seen.breakers_BV, positions_B
        ),
        lambda: scores_BV,
    )


def _draw(scores_BV: Array, settings: RowSettings, positions_B: Array) -> Array:
    greedy_B = settings.temperature_B == 0
    temperature_B1 = jnp.where(greedy_B, 1.0, settings.temperature_B)[:, None]
    scaled_BV = scale_by_temperature(scores_BV, temperature_B1)
    filters = jnp.any((settings.top_k_B > 0) | (settings.top_p_B < 1))
    filtered_BV = jax.lax.cond(filters, _keep_likeliest, lambda x, _: x, scaled_BV, settings)
    filtered_BV = keep_min_p(filtered_BV, settings.min_p_B[:, None])
    keys_B = jax.vmap(jax.random.fold_in)(
        jax.random.wrap_key_data(jnp.asarray(settings.key_data_B2)), positions_B
    )
    filtered_BV = jax.lax.cond(
        jnp.any(settings.xtc_probability_B > 0),
        lambda: exclude_top_choices(
            filtered_BV, settings.xtc_probability_B, settings.xtc_threshold_B, keys_B
        ),
        lambda: filtered_BV,
    )
    tokens_B = draw(filtered_BV, keys_B)
    return jnp.where(greedy_B, likeliest(scores_BV), tokens_B).astype(jnp.int32)


def _keep_likeliest(scores_BV: Array, settings: RowSettings) -> Array:
    """Apply top-k, then top-p, to the rows that have them; the result is that of sampling.py.

    Without sorting, which takes a CPU longer than a step of a small model.
    """
    num_columns = scores_BV.shape[-1]
    k_B1 = jnp.where(settings.top_k_B > 0, settings.top_k_B, num_columns)[:, None]
    order_BV = _in_order(scores_BV)
    lowest_B1 = _lowest_kept(order_BV, jnp.ones_like(scores_BV), k_B1)
    scores_BV = jnp.where(order_BV >= lowest_B1, scores_BV, -jnp.inf)

    p_B1 = jnp.asarray(settings.top_p_B)[:, None]
    shares_BV = jax.nn.softmax(scores_BV, axis=-1)
    lowest_B1 = _lowest_kept(order_BV, shares_BV, p_B1)
    above_BV = order_BV > lowest_B1
    ties_BV = jnp.where(order_BV == lowest_B1, shares_BV, 0.0)
    # Among equal scores the lower id is taken first.
    mass_before_BV = _sum_where(shares_BV, above_BV) + jnp.cumsum(ties_BV, axis=-1) - ties_BV
    kept_BV = above_BV | ((order_BV == lowest_B1) & (mass_before_BV < p_B1))
    return jnp.where((p_B1 >= 1) | kept_BV, scores_BV, -jnp.inf)


def _in_order(scores_BV: Array) -> Array:
    """Return float32 scores as uint32 of the same order."""
    # Zero and minus zero are one number.
    scores_BV = jnp.where(scores_BV == 0, 0.0, scores_BV)
    bits_BV = jax.lax.bitcast_convert_type(scores_BV, jnp.uint32)
    return bits_BV ^ jnp.where(bits_BV >> 31, jnp.uint32(0xFFFFFFFF), jnp.uint32(0x80000000))


def _lowest_kept(order_BV: Array, weights_BV: Array, limit_B1: Array) -> Array:
    """Return the lowest value of a row above which the weights sum to less than its limit.

    A search by halves, [B, 1]: 32 passes over the row.
    """

    def halve(number: Array, low_B1: Array) -> Array:
        step = jnp.uint32(1) << (31 - number).astype(jnp.uint32)
        middle_B1 = low_B1 + (step - 1)
        enough_B1 = _sum_where(weights_BV, order_BV > middle_B1) >= limit_B1
        return jnp.where(enough_B1, low_B1 + step, low_B1)

    return jax.lax.fori_loop(0, 32, halve, jnp.zeros((order_BV.shape[0], 1), jnp.uint32))


def _sum_where(values_BV: Array, where_BV: Array) -> Array:
    return jnp.sum(jnp.where(where_BV, values_BV, 0.0), axis=-1, keepdims=True)
