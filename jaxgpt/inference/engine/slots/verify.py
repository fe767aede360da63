"""Several tokens of each slot in one pass: those that were drafted, as far as the model draws them.

A slot reads its newest token and the drafted ones, and the model draws at each of these places what
it draws in a step of decoding: with the same settings, biases and key. A drafted token is right
where it is what was drawn; the first that is not is replaced, and what stands behind it is dropped.
So all that a slot draws is the model's own, and drafts change how long that takes.

Each drafted token is a row of its own (`TokensAsRows`), so that numbers come from the operations of
`decode`, with more rows. Keys and values of dropped tokens lie behind the slot's length, where
nothing reads them and the next tokens overwrite them.

Axes: B slots, K drafted tokens, T = K + 1 places, X = B * T, V padded vocabulary, W words of 32
ids.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxgpt.inference.decode_programs import next_logits
from jaxgpt.inference.engine.drawing.row_sampling import Drawn, RowSettings, Seen, draw_rows
from jaxgpt.inference.engine.slots.adapters import choose_rows
from jaxgpt.inference.engine.slots.slots import Slots, unpack_mask
from jaxgpt.model.attention.kv_cache import KVCache
from jaxgpt.model.attention.tokens_as_rows import TokensAsRows, tokens_as_rows
from jaxgpt.model.gpt import Gpt


class Verified(NamedTuple):
    """Tokens of the slots after their drafts were looked at.

    Attributes:
        drawn: tokens with scores, with a leading axis T.
        numbers_B: int32, how many of them count: one more than the drafted tokens that were right.
    """

    drawn: Drawn
    numbers_B: Array


class _Progress(NamedTuple):
    """State from place to place: `goes_on_B` while all drafted tokens were right."""

    seen: Seen
    tokens_B: Array
    goes_on_B: Array
    numbers_B: Array


def verify_drafts(
    model: Gpt,
    params: Any,
    slots: Slots,
    active_B: Array,
    drafts_BK: Array,
    num_drafts_B: Array,
    settings: RowSettings,
    allowed_BW: Array,
    stop_V: Array,
) -> tuple[Slots, Verified]:
    """Draw a token in each active slot, and one more for each drafted token that was right.

    Args:
        model: whose parameters follow.
        params: from `AdaptedDecoder.params`, for X rows.
        slots: the state.
        active_B: bool; the other slots stay as they are.
        drafts_BK: int32.
        num_drafts_B: int32, how many of them count; 0 for slots that a constraint binds.
        settings: how each slot draws.
        allowed_BW: uint32, which ids constraints allow; see `unpack_mask`.
        stop_V: bool, ids that end an answer.
    """
    tokens_BT = jnp.concatenate([slots.tokens_B[:, None], drafts_BK], axis=1)
    valid_BT = active_B[:, None] & (jnp.arange(tokens_BT.shape[1]) <= num_drafts_B[:, None])
    logits_TBV, cache = read_tokens(model, params, tokens_BT, valid_BT, slots.cache)
    rows_B, lengths_B = jnp.arange(active_B.shape[0]), slots.cache.lengths_B
    allowed_BV = unpack_mask(allowed_BW, logits_TBV.shape[-1])

    def draw(progress: _Progress, place: Any) -> tuple[_Progress, Drawn]:
        number, logits_BV, draft_B = place
        seen, tokens_B, goes_on_B, numbers_B = progress
        places_B = lengths_B + number + 1
        drawn = draw_rows(logits_BV, settings, seen, allowed_BV, stop_V, places_B)
        seen = seen.add(rows_B, drawn.tokens_B, places_B, goes_on_B)
        tokens_B = jnp.where(goes_on_B, drawn.tokens_B, tokens_B)
        is_right_B = (draft_B == drawn.tokens_B) & (number < num_drafts_B)
        return _Progress(seen, tokens_B, goes_on_B & is_right_B, numbers_B + goes_on_B), drawn

    # Behind the last place no token was drafted.
    drafts_TB = jnp.pad(drafts_BK, ((0, 0), (0, 1))).T
    places = jnp.arange(drafts_TB.shape[0], dtype=jnp.int32), logits_TBV, drafts_TB
    start = _Progress(slots.seen, slots.tokens_B, active_B, jnp.zeros_like(lengths_B))
    end, drawn = jax.lax.scan(draw, start, places)
    cache = dataclasses.replace(cache, lengths_B=lengths_B + end.numbers_B)
    return Slots(cache, end.tokens_B, end.seen), Verified(drawn, end.numbers_B)


def read_tokens(
    model: Gpt, params: Any, tokens_BT: Array, valid_BT: Array, cache: KVCache
) -> tuple[Array, KVCache]:
    """Return the scores [T, B, V] of what follows each token, and a cache that holds the tokens.

    The lengths of the cache stay as they are.

    Args:
        model: whose parameters follow.
        params: from `AdaptedDecoder.params`, for X rows.
        tokens_BT: int32.
        valid_BT: bool, which of them count; the first ones of a row.
        cache: what each row has read.
    """
    num_tokens = tokens_BT.shape[1]
    model, params = choose_rows(model, params)
    as_rows = tokens_as_rows(cache, num_tokens)
    logits_XV, as_rows = next_logits(
        model, params, tokens_BT.reshape(-1, 1), valid_BT.reshape(-1, 1), as_rows
    )
    assert isinstance(as_rows, TokensAsRows)
    logits_BTV = logits_XV.reshape(-1, num_tokens, logits_XV.shape[-1])
    return logits_BTV.swapaxes(0, 1), as_rows.kept
