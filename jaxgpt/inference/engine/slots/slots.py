"""The engine's state on the device, and the programs that change it.

A slot is a row of the cache that one request has for as long as it lasts. The programs have fixed
shapes, and a slot's numbers never meet another's: what a request gets does not depend, bit for bit,
on what else is in the slots.

Axes: B slots, T tokens of a chunk, N steps, V padded vocabulary, W words of 32 ids.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgpt.inference.cpu_layout import cache_dtype, head_table
from jaxgpt.inference.decode_programs import next_logits
from jaxgpt.inference.decoding_weights import restore
from jaxgpt.inference.engine.drawing.row_sampling import (
    Drawn,
    RowSettings,
    Seen,
    draw_rows,
    score_tokens,
)
from jaxgpt.inference.engine.slots.adapters import choose_rows
from jaxgpt.model.attention.kv_cache import KVCache, MakeCache, empty_cache
from jaxgpt.model.gpt import Gpt, make_cache
from jaxgpt.model.layers.placement import constrain

_SMALLEST_CHUNK = 16


class Slots(NamedTuple):
    """State of all slots.

    Attributes:
        cache: keys and values of all tokens but the newest.
        tokens_B: int32, the newest token of each slot, which is not in the cache yet.
        seen: what each slot has seen and may draw.
    """

    cache: KVCache
    tokens_B: Array
    seen: Seen


def empty_slots(
    model: Gpt, num_slots: int, max_length: int, empty: MakeCache = empty_cache
) -> Slots:
    """Return slots that hold nothing, over a cache from `empty`.

    Raises:
        ConfigError: the model has too few positions for `max_length` tokens.
    """
    shape = (num_slots, model.config.pad_vocab(model.vocab_size))
    return Slots(
        cache=make_cache(model.config, num_slots, max_length, cache_dtype(), empty),
        tokens_B=jnp.zeros(num_slots, jnp.int32),
        seen=Seen(
            prompt_BV=jnp.zeros(shape, bool),
            drawn_BV=jnp.zeros(shape, jnp.int32),
            bias_BV=jnp.zeros(shape, jnp.float32),
            tokens_BT=jnp.zeros((num_slots, max_length), jnp.int32),
            breakers_BV=jnp.zeros(shape, bool),
        ),
    )


@functools.partial(jax.jit, donate_argnums=0)
def copy_slot(slots: Slots, source: Array, slot: Array) -> Slots:
    """Let a slot hold the keys and values of another."""
    return slots._replace(cache=put_row(slots.cache, slot, take_row(slots.cache, source)))


@functools.partial(jax.jit, donate_argnums=0)
def begin(slots: Slots, slot: Array, length: Array, first: Seen) -> Slots:
    """Give a slot, whose first `length` tokens it holds already, to a request with `first`."""
    lengths_B = slots.cache.lengths_B.at[slot].set(length)
    return Slots(
        dataclasses.replace(slots.cache, lengths_B=lengths_B),
        slots.tokens_B,
        slots.seen.begin(slot, first),
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def read_chunk(
    model: Gpt, params: Any, slots: Slots, slot: Array, tokens_T: Array, num_tokens: Array
) -> tuple[Slots, Array]:
    """Read more of a prompt; return the state and the scores [V] of what follows the last token.

    Args:
        model: whose parameters follow.
        params: from `AdaptedDecoder.params`.
        slots: the state.
        slot: whose prompt it is.
        tokens_T: int32, padded at the end.
        num_tokens: how many are no padding.
    """
    model, params = choose_rows(model, params)
    valid_1T = (jnp.arange(tokens_T.shape[0]) < num_tokens)[None]
    row = take_row(slots.cache, slot)
    logits_1V, row = next_logits(model, params, tokens_T[None], valid_1T, row)
    return slots._replace(cache=put_row(slots.cache, slot, row)), logits_1V[0]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def read_and_score_chunk(
    model: Gpt,
    params: Any,
    slots: Slots,
    slot: Array,
    tokens_T: Array,
    targets_T: Array,
    num_tokens: Array,
    wants_top: Array,
) -> tuple[Slots, Array, Drawn]:
    """Read more of a prompt as `read_chunk` does, and score the token after each of its tokens.

    Returns:
        the state, the scores [V] of what follows the last token, and those of `targets_T`.
    """
    model, params = choose_rows(model, params)
    valid_1T = (jnp.arange(tokens_T.shape[0]) < num_tokens)[None]
    row = take_row(slots.cache, slot)

    def all_logits(gpt: Gpt) -> tuple[Array, KVCache]:
        x_1TD, cache = gpt.hidden_states(tokens_T[None], valid_1T.astype(jnp.int32), cache=row)
        assert cache is not None
        table_VD = gpt.embedding.as_kernel(head_table(params, gpt.embedding.table))
        logits_1TV = gpt.head(x_1TD, table_VD, valid_1T)
        return constrain(logits_1TV, "batch", None, None)[0], cache

    apply: Callable[..., Any] = model.apply
    logits_TV, row = apply({"params": restore(params)}, method=all_logits)
    scores = score_tokens(logits_TV, targets_T, wants_top)
    return slots._replace(cache=put_row(slots.cache, slot, row)), logits_TV[num_tokens - 1], scores


@functools.partial(jax.jit, donate_argnums=0)
def draw_first(
    slots: Slots,
    slot: Array,
    logits_V: Array,
    settings_1: RowSettings,
    allowed_1W: Array,
    stop_V: Array,
) -> tuple[Slots, Drawn]:
    """Draw the first token of a slot whose prompt is read."""
    seen = Seen(*(jax.lax.dynamic_slice_in_dim(field, slot, 1) for field in slots.seen))
    positions_1 = jax.lax.dynamic_slice_in_dim(slots.cache.lengths_B, slot, 1)
    allowed_1V = unpack_mask(allowed_1W, logits_V.shape[0])
    drawn = draw_rows(logits_V[None], settings_1, seen, allowed_1V, stop_V, positions_1)
    seen = slots.seen.add(slot[None], drawn.tokens_B, positions_1, jnp.ones(1, bool))
    tokens_B = slots.tokens_B.at[slot].set(drawn.tokens_B[0])
    return slots._replace(tokens_B=tokens_B, seen=seen), drawn


def decode_steps(
    model: Gpt,
    most_steps: int,
    params: Any,
    slots: Slots,
    active_B: Array,
    settings: RowSettings,
    allowed_BW: Array,
    constrained: Array,
    stop_V: Array,
    num_steps: Array,
) -> tuple[Slots, Drawn]:
    """Draw `num_steps` more tokens in the active slots; the others stay as they are.

    Args:
        model: whose parameters follow.
        most_steps: N, the size of what is returned.
        params: from `AdaptedDecoder.params`.
        slots: the state.
        active_B: bool.
        settings: how each slot draws.
        allowed_BW: uint32, which ids constraints allow; see `unpack_mask`.
        constrained: bool, whether `allowed_BW` counts at all.
        stop_V: bool, ids that end an answer.
        num_steps: from 1 to `most_steps`; not a constant of the program, so that a slot's numbers
            come from one program whatever the number is.

    Returns:
        the state, and the drawn tokens with a leading axis N, of which `num_steps` count.
    """
    model, params = choose_rows(model, params)
    shape_BV = slots.seen.bias_BV.shape
    allowed_BV = jax.lax.cond(
        constrained,
        lambda: unpack_mask(allowed_BW, shape_BV[1]),
        lambda: jnp.ones(shape_BV, bool),
    )

    def step(number: Array, carry: tuple[Slots, Drawn]) -> tuple[Slots, Drawn]:
        slots, drawn_NB = carry
        logits_BV, cache = next_logits(
            model, params, slots.tokens_B[:, None], active_B[:, None], slots.cache
        )
        drawn = draw_rows(logits_BV, settings, slots.seen, allowed_BV, stop_V, cache.lengths_B)
        tokens_B = jnp.where(active_B, drawn.tokens_B, slots.tokens_B)
        rows_B = jnp.arange(shape_BV[0])
        seen = slots.seen.add(rows_B, drawn.tokens_B, cache.lengths_B, active_B)
        slots = Slots(cache, tokens_B, seen)
        return slots, jax.tree.map(lambda all_, new: all_.at[number].set(new), drawn_NB, drawn)

    nothing = jax.tree.map(
        lambda leaf: jnp.zeros((most_steps, *leaf.shape), leaf.dtype),
        jax.eval_shape(
            lambda: score_tokens(
                jnp.zeros(shape_BV), jnp.zeros(shape_BV[0], jnp.int32), constrained
            )
        ),
    )
    return jax.lax.fori_loop(0, num_steps, step, (slots, nothing))


decode = jax.jit(decode_steps, static_argnums=(0, 1), donate_argnums=3)


def unpack_mask(allowed_BW: Array, num_columns: int) -> Array:
    """Return a bool [B, num_columns] from words of 32 ids, the lowest id in the lowest bit."""
    bits_BWS = (allowed_BW[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return bits_BWS.reshape(allowed_BW.shape[0], -1)[:, :num_columns].astype(bool)


def all_allowed(num_rows: int, num_columns: int) -> np.ndarray:
    """Return words of 32 ids in which every id is allowed, uint32 [num_rows, W]."""
    return np.full((num_rows, -(-num_columns // 32)), 0xFFFFFFFF, np.uint32)


def chunk_shape(num_tokens: int, largest: int, max_length: int) -> int:
    """Return the padded length of a chunk: a few programs for all prompts.

    Args:
        num_tokens: of the chunk.
        largest: most tokens of one.
        max_length: tokens that a slot holds.
    """
    size = max(_SMALLEST_CHUNK, 1 << (num_tokens - 1).bit_length())
    # Learned positions have no more tokens than the context.
    return min(size, largest, max(num_tokens, max_length))


def take_row(cache: KVCache, slot: Array) -> KVCache:
    """Return one slot's part of a cache."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, slot, 1), cache)


def put_row(cache: KVCache, slot: Array, row: KVCache) -> KVCache:
    """Return a cache in which one slot holds `row`."""
    return jax.tree.map(
        lambda leaf, new: jax.lax.dynamic_update_slice_in_dim(leaf, new, slot, 0), cache, row
    )
