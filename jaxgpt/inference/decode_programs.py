"""The programs of decode.py: one pass over the prompts, then blocks of steps with a cache.

Axes: B rows, T tokens of a padded prompt, N steps of a block, V padded vocabulary, D model.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxgpt.inference.cpu_layout import cache_dtype, head_table
from jaxgpt.inference.decoding_weights import restore
from jaxgpt.inference.repeats import RowTexts
from jaxgpt.inference.sampling import SamplingConfig, sample
from jaxgpt.model.attention.kv_cache import KVCache, MakeCache, empty_cache
from jaxgpt.model.gpt import Gpt, make_cache
from jaxgpt.model.layers.placement import constrain


class DecodingState(NamedTuple):
    """State on the device that is carried from step to step.

    Attributes:
        cache: keys and values of all tokens but the newest.
        tokens_B: int32, the newest token of each row.
        keys_B: a PRNG key per row.
        seen_BV: bool, tokens that a row has; None if nothing depends on them.
        texts: the same tokens in their order; None if nothing depends on it.
    """

    cache: KVCache
    tokens_B: Array
    keys_B: Array
    seen_BV: Array | None
    texts: RowTexts | None


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 8))
def prefill(
    model: Gpt,
    sampling: SamplingConfig,
    cache_length: int,
    params: Any,
    tokens_BT: Array,
    lengths_B: Array,
    keys_B: Array,
    allowed: Array,
    empty: MakeCache = empty_cache,
    breakers_V: ArrayLike = False,
) -> DecodingState:
    """Read the prompts and draw the first token of each row.

    Args:
        model: a language model.
        sampling: how tokens are drawn.
        cache_length: tokens of a row that the cache holds.
        params: from `lay_out`.
        tokens_BT: int32, the prompts, padded at the end.
        lengths_B: int32, tokens of each prompt.
        keys_B: a PRNG key per row.
        allowed: bool [V], ids that may be drawn, or [B, V] if rows differ.
        empty: makes the cache.
        breakers_V: bool, ids that end a sequence for DRY.
    """
    num_rows, num_columns = tokens_BT.shape[0], allowed.shape[-1]
    valid_BT = jnp.arange(tokens_BT.shape[1]) < lengths_B[:, None]
    cache = make_cache(model.config, num_rows, cache_length, cache_dtype(), empty)
    logits_BV, cache = next_logits(model, params, tokens_BT, valid_BT, cache)
    seen_BV = texts = None
    if sampling.needs_seen:
        # Padding goes to a column that does not exist.
        columns_BT = jnp.where(valid_BT, tokens_BT, num_columns)
        seen_BV = jnp.zeros((num_rows, num_columns), bool)
        seen_BV = seen_BV.at[jnp.arange(num_rows)[:, None], columns_BT].set(True, mode="drop")
    if sampling.penalizes_repeats:
        # The cache lacks the newest token.
        rest = max(0, cache_length + 1 - tokens_BT.shape[1])
        breakers_BV = jnp.broadcast_to(jnp.asarray(breakers_V), (num_rows, num_columns))
        texts = RowTexts(jnp.pad(tokens_BT, ((0, 0), (0, rest))), breakers_BV, lengths_B)
    newest_B = jnp.zeros_like(lengths_B)
    state = DecodingState(cache, newest_B, keys_B, seen_BV, texts)
    return _draw(sampling, allowed, logits_BV, state)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def decode_block(
    model: Gpt,
    sampling: SamplingConfig,
    num_steps: int,
    params: Any,
    state: DecodingState,
    allowed: Array,
) -> tuple[DecodingState, Array]:
    """Take `num_steps` steps; returns the new state and the drawn tokens, int32 [B, N]."""

    steps_N = jnp.arange(num_steps)

    def step(number: Array, carry: tuple[DecodingState, Array]) -> tuple[DecodingState, Array]:
        state, drawn_BN = carry
        valid_B1 = jnp.ones((state.tokens_B.shape[0], 1), bool)
        logits_BV, cache = next_logits(
            model, params, state.tokens_B[:, None], valid_B1, state.cache
        )
        state = _draw(sampling, allowed, logits_BV, state._replace(cache=cache))
        # On a GPU a slice that is set is a copy of its own, launched apart from the kernels.
        return state, jnp.where(steps_N == number, state.tokens_B[:, None], drawn_BN)

    drawn_BN = jnp.zeros((state.tokens_B.shape[0], num_steps), jnp.int32)
    return jax.lax.fori_loop(0, num_steps, step, (state, drawn_BN))


def _draw(
    sampling: SamplingConfig, allowed: Array, logits_BV: Array, state: DecodingState
) -> DecodingState:
    """Draw the next token of each row, whose earlier tokens are all in the cache."""
    places_B, seen_BV, texts = state.cache.lengths_B, state.seen_BV, state.texts
    if texts is not None:
        texts = texts._replace(lengths_B=places_B)
    tokens_B = sample(logits_BV, sampling, allowed, state.keys_B, places_B, seen_BV, texts)
    rows_B = jnp.arange(tokens_B.shape[0])
    if seen_BV is not None:
        seen_BV = seen_BV.at[rows_B, tokens_B].set(True)
    if texts is not None:
        tokens_BT = texts.tokens_BT.at[rows_B, places_B].set(tokens_B)
        texts = texts._replace(tokens_BT=tokens_BT)
    return DecodingState(state.cache, tokens_B, state.keys_B, seen_BV, texts)


def next_logits(
    model: Gpt, params: Any, tokens_BT: Array, valid_BT: Array, cache: KVCache
) -> tuple[Array, KVCache]:
    """Append tokens to the cache; return the scores [B, V] of what follows each row's last one."""

    def at_the_last(gpt: Gpt) -> tuple[Array, KVCache]:
        x_BTD, new_cache = gpt.hidden_states(tokens_BT, valid_BT.astype(jnp.int32), cache=cache)
        # The head sees one position a row: scores of a whole prompt would not fit in memory.
        last_B = jnp.sum(valid_BT, axis=1) - 1
        x_B1D = jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)
        table_VD = gpt.embedding.as_kernel(head_table(params, gpt.embedding.table))
        logits_B1V = gpt.head(x_B1D, table_VD, jnp.ones_like(valid_BT[:, :1]))
        assert new_cache is not None
        # Of devices that share the vocabulary, each gets all scores and draws for itself.
        return constrain(logits_B1V[:, 0], "batch", None), new_cache

    return model.apply({"params": restore(params)}, method=at_the_last)  # type: ignore[return-value]
