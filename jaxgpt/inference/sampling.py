"""From the scores of the next token to a token: masks, filters, and the draw.

Pure functions of arrays; which model made the scores, and what the ids spell, is not known here.
Axes: B rows, V vocabulary (with the padding columns of the model's head).

The order is that of Hugging Face transformers, with two more: forbidden ids, repetition penalty,
DRY, temperature, top-k, top-p, min-p, XTC. A filtered-out id has the score -inf. docs/inference.md
explains each filter.
Where a setting may be an array, it is one number for all rows, or [B, 1].
"""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxgpt.config import configclass
from jaxgpt.inference.repeats import (
    DEFAULT_BREAKERS,
    LONGEST_MATCH,
    DryRows,
    RowTexts,
    penalize_repeats,
)
from jaxgpt.inference.top_choices import exclude_top_choices
from jaxgpt.model.cpu.likeliest import first_of_the_highest
from jaxgpt.model.cpu.threefry import key_of_seed
from jaxgpt.runtime.target import compile_target

_LOWEST_TEMPERATURE = 1e-6
_MOST = 2**31 - 1


@configclass
class SamplingConfig:
    """Sampling of the next token from the model's scores."""

    temperature: float = 1.0
    """Divisor of the scores: below 1 is safer, above 1 wilder; 0 always takes the likeliest
    token."""
    top_k: int | None = None
    """Number of likeliest tokens to draw from; None: all."""
    top_p: float = 1.0
    """Probability mass to draw from: the smallest set of likeliest tokens that reaches it; 1:
    all."""
    min_p: float = 0.0
    """Least probability of a token, as a share of the likeliest one's; 0: no limit."""
    repetition_penalty: float = 1.0
    """Penalty of tokens that the text already has: above 1 makes them less likely; 1: off."""
    dry_multiplier: float = 0.0
    """Penalty (DRY) of a token that goes on with a repeated sequence of the allowed length; 0:
    off."""
    dry_base: float = 1.75
    """Factor of that penalty for each further token of the sequence."""
    dry_allowed_length: int = 2
    """Length of a repeated sequence from which on the next token is penalised."""
    dry_penalty_last_n: int = -1
    """Number of newest tokens in which repeated sequences are looked for; -1: all, 0: off."""
    dry_sequence_breakers: tuple[str, ...] = DEFAULT_BREAKERS
    """Texts at which a sequence ends, such as a line end."""
    xtc_probability: float = 0.0
    """Probability (XTC) of leaving the likeliest tokens out of a draw; 0: off."""
    xtc_threshold: float = 0.1
    """Least probability of tokens that are left out; the least likely of them stays."""

    def __post_init__(self) -> None:
        # Every test is written so that NaN fails it.
        if not (self.temperature == 0 or _LOWEST_TEMPERATURE <= self.temperature < math.inf):
            raise ValueError(
                f"temperature = {self.temperature}; allowed: 0 (always the likeliest token) or a "
                f"finite number of at least {_LOWEST_TEMPERATURE:g}"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k = {self.top_k}; allowed: None (off) or at least 1")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p = {self.top_p}; allowed: above 0, up to 1 (off)")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p = {self.min_p}; allowed: from 0 (off) to 1")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(
                f"repetition_penalty = {self.repetition_penalty}; allowed: a finite number above "
                "0, where 1 is off"
            )
        for name in ("xtc_probability", "xtc_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}; allowed: from 0 to 1")
        self._check_dry()

    def _check_dry(self) -> None:
        if not 0 <= self.dry_multiplier < math.inf:
            raise ValueError(f"dry_multiplier = {self.dry_multiplier}; allowed: 0 (off) or more")
        if not 1 <= self.dry_base < math.inf:
            raise ValueError(f"dry_base = {self.dry_base}; allowed: a finite number from 1")
        if not 0 <= self.dry_allowed_length <= LONGEST_MATCH:
            raise ValueError(
                f"dry_allowed_length = {self.dry_allowed_length}; allowed: from 0 to "
                f"{LONGEST_MATCH}"
            )
        if self.dry_penalty_last_n < -1:
            raise ValueError(
                f"dry_penalty_last_n = {self.dry_penalty_last_n}; allowed: -1 (all tokens), 0 "
                "(off) or more"
            )
        if "" in self.dry_sequence_breakers:
            raise ValueError("dry_sequence_breakers has an empty text; leave it out")
        for text in self.dry_sequence_breakers:
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError(
                    f"dry_sequence_breakers has {text!a}, a text with a lone surrogate, which "
                    "is no character; leave it out"
                )

    @property
    def needs_seen(self) -> bool:
        """Return whether sampling depends on the tokens that the row already has."""
        return self.repetition_penalty != 1

    @property
    def penalizes_repeats(self) -> bool:
        """Return whether sampling depends on the order of the tokens that the row already has."""
        return self.dry_multiplier > 0 and self.dry_penalty_last_n != 0

    def dry_rows(self, num_rows: int) -> DryRows:
        """Return the settings of DRY for rows that are all drawn with this config."""
        last_n = self.dry_penalty_last_n
        return DryRows(
            dry_multiplier_B=np.full(num_rows, self.dry_multiplier if last_n else 0, np.float32),
            dry_base_B=np.full(num_rows, self.dry_base, np.float32),
            dry_allowed_length_B=np.full(num_rows, self.dry_allowed_length, np.int32),
            dry_last_n_B=np.full(num_rows, _MOST if last_n < 0 else min(last_n, _MOST), np.int32),
        )


def allowed_ids(num_columns: int, vocab_size: int, forbidden: Iterable[int] = ()) -> np.ndarray:
    """Return a bool [V] that is False for the head's padding columns and the `forbidden` ids.

    Args:
        num_columns: V, the columns of the model's scores.
        vocab_size: ids of the tokenizer; columns from there on are padding.
        forbidden: ids that must never be drawn, such as padding, document start and chat roles.
    """
    allowed_V = np.arange(num_columns) < vocab_size
    allowed_V[list(forbidden)] = False
    return allowed_V


def penalize_repetition(logits_BV: Array, seen_BV: Array, penalty: ArrayLike) -> Array:
    """Lower the scores of tokens already seen: positive ones divided, negative ones multiplied.

    Keskar et al., 2019, CTRL (arXiv:1909.05858), section 4.1, with the sign handled so that a
    penalty above 1 lowers every score.
    """
    penalized_BV = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return jnp.where(seen_BV, penalized_BV, logits_BV)


def scale_by_temperature(logits_BV: Array, temperature: ArrayLike) -> Array:
    """Divide scores by `temperature`, shifted so that the highest is 0 and nothing overflows."""
    return (logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)) / temperature


def keep_top_k(logits_BV: Array, k: int) -> Array:
    """Keep the `k` highest scores of each row, and those equal to the lowest of them."""
    lowest_B1 = jax.lax.top_k(logits_BV, min(k, logits_BV.shape[-1]))[0][:, -1:]
    return jnp.where(logits_BV >= lowest_B1, logits_BV, -jnp.inf)


def keep_top_p(logits_BV: Array, p: ArrayLike) -> Array:
    """Keep the smallest set of likeliest tokens whose probabilities sum to at least `p`.

    Among equal scores the lower id is taken first. Holtzman et al., 2020 (arXiv:1904.09751).
    """
    order_BV = jnp.argsort(logits_BV, axis=-1, descending=True, stable=True)
    sorted_BV = jax.nn.softmax(jnp.take_along_axis(logits_BV, order_BV, axis=-1), axis=-1)
    # A token is needed while the mass before it falls short; the first one always is.
    mass_before_BV = jnp.cumsum(sorted_BV, axis=-1) - sorted_BV
    needed_BV = (mass_before_BV < p).at[:, 0].set(True)
    kept_BV = jnp.put_along_axis(
        jnp.zeros_like(needed_BV), order_BV, needed_BV, axis=-1, inplace=False
    )
    return jnp.where(kept_BV, logits_BV, -jnp.inf)


def keep_min_p(logits_BV: Array, p: ArrayLike) -> Array:
    """Keep tokens at least `p` times as likely as the likeliest one (arXiv:2407.01082)."""
    highest_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
    return jnp.where(logits_BV >= highest_B1 + jnp.log(p), logits_BV, -jnp.inf)


def filter_logits(
    logits_BV: Array,
    config: SamplingConfig,
    allowed_V: Array,
    seen_BV: Array | None = None,
    texts: RowTexts | None = None,
) -> Array:
    """Return float32 scores [B, V] whose softmax is the distribution that `sample` draws from.

    XTC is not among the filters here, because it leaves tokens out by chance. At temperature 0 only
    the masks and the penalties apply: no filter moves the maximum.

    Args:
        logits_BV: the model's scores.
        config: static under `jit`.
        allowed_V: bool, from `allowed_ids`; [B, V] if rows differ.
        seen_BV: bool, tokens of each row's prompt and answer so far; needed if
            `config.needs_seen`.
        texts: the same tokens in their order; needed if `config.penalizes_repeats`.
    """
    logits_BV = jnp.where(allowed_V, logits_BV.astype(jnp.float32), -jnp.inf)
    if config.needs_seen:
        if seen_BV is None:
            raise ValueError("a repetition penalty needs seen_BV")
        logits_BV = penalize_repetition(logits_BV, seen_BV, config.repetition_penalty)
    if config.penalizes_repeats:
        if texts is None:
            raise ValueError("a penalty of repeated sequences needs texts")
        logits_BV = penalize_repeats(logits_BV, config.dry_rows(logits_BV.shape[0]), *texts)
    if config.temperature == 0:
        return logits_BV
    logits_BV = scale_by_temperature(logits_BV, config.temperature)
    if config.top_k is not None:
        logits_BV = keep_top_k(logits_BV, config.top_k)
    if config.top_p < 1:
        logits_BV = keep_top_p(logits_BV, config.top_p)
    if config.min_p > 0:
        logits_BV = keep_min_p(logits_BV, config.min_p)
    return logits_BV


def likeliest(scores: Array) -> Array:
    """Return the id of the highest of scores [..., V], the lowest of equal ones, int32 [...]."""
    if compile_target().is_cpu:
        return first_of_the_highest(scores)
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def draw(scores_BV: Array, keys_B: Array) -> Array:
    """Draw an id of each row from the softmax of its scores, int32 [B].

    What `jax.random.categorical` draws with each key, by the Gumbel-max trick.
    """
    shape, dtype = scores_BV.shape[1:], scores_BV.dtype
    noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, shape, dtype))(keys_B)
    return likeliest(scores_BV + noise_BV)


def row_keys(seed: int, rows_B: Array) -> Array:
    """Return one PRNG key per row, a function of the seed and the row's number alone."""
    return _fold_in_each(key_of_seed(seed), rows_B)


_fold_in_each = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))


@jax.named_scope("sampling")
def sample(
    logits_BV: Array,
    config: SamplingConfig,
    allowed_V: Array,
    keys_B: Array,
    positions_B: Array,
    seen_BV: Array | None = None,
    texts: RowTexts | None = None,
) -> Array:
    """Draw one token a row: int32 [B], or -1 where the model's scores are not finite.

    What a row draws depends on its key and position, not on the other rows.

    Args:
        logits_BV: the model's scores for the token at `positions_B`.
        config: static under `jit`.
        allowed_V: bool, from `allowed_ids`, or [B, V] if rows differ; allows at least one id.
        keys_B: from `row_keys`.
        positions_B: int32, place of the drawn token in its row, counted from the row's start.
        seen_BV: see `filter_logits`.
        texts: likewise.
    """
    # A model that diverged has NaN in its scores; an argmax or a draw over them would look normal.
    finite_B = jnp.all(jnp.where(allowed_V, jnp.isfinite(logits_BV), True), axis=-1)
    filtered_BV = filter_logits(logits_BV, config, allowed_V, seen_BV, texts)
    if config.temperature == 0:
        tokens_B = likeliest(filtered_BV)
    else:
        step_keys_B = jax.vmap(jax.random.fold_in)(keys_B, positions_B)
        if config.xtc_probability > 0:
            filtered_BV = exclude_top_choices(
                filtered_BV,
                np.full(positions_B.shape, config.xtc_probability, np.float32),
                np.full(positions_B.shape, config.xtc_threshold, np.float32),
                step_keys_B,
            )
        tokens_B = draw(filtered_BV, step_keys_B)
    return jnp.where(finite_B, tokens_B, -1).astype(jnp.int32)
