"""Whole answers to a batch of prompts, drawn by one program with their log-probabilities.

`Decoder` streams text to a person and visits the host every few tokens. Where only whole answers
count, as in training on them or measuring them, a loop on the device that ends with the last answer
needs no visits. It is a pure function, which a jitted function can call.

Nothing is filtered: tokens come from the distribution whose log-probabilities training computes.

Axes: B rows, T places of a row, N most tokens of an answer, V padded vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxgpt.inference.cpu_layout import cache_dtype
from jaxgpt.inference.decode_programs import next_logits
from jaxgpt.inference.sampling import SamplingConfig, allowed_ids, sample
from jaxgpt.model.attention.kv_cache import KVCache
from jaxgpt.model.gpt import Gpt, make_cache

DRAWN = SamplingConfig(temperature=1.0)
GREEDY = SamplingConfig(temperature=0.0)


class Answers(NamedTuple):
    """Answers to the prompts of a batch, JAX arrays or NumPy's.

    Attributes:
        ids_BN: int32, an answer's ids, with the one that ends it; -1 where the model's scores were
            not finite, and 0 after the end.
        log_probabilities_BN: float32, log p of each id given those before it; 0 after the end.
        lengths_B: int32, ids of an answer.
        ended_B: bool, whether the answer ended within N ids.
    """

    ids_BN: Any
    log_probabilities_BN: Any
    lengths_B: Any
    ended_B: Any


class _State(NamedTuple):
    """Answers so far, and the scores of what follows, carried from token to token."""

    answers: Answers
    place: Array
    logits_BV: Array
    cache: KVCache


def answer_prompts(
    model: Gpt,
    params: Any,
    tokens_BT: Array,
    lengths_B: Array,
    is_end_V: Array,
    most: int,
    keys_B: Array,
    sampling: SamplingConfig = DRAWN,
) -> Answers:
    """Draw an answer to each prompt.

    What a row draws depends on its key and its prompt, not on the other rows (up to rounding).

    Args:
        model: a language model.
        params: its parameters, as they are or from `lay_out`.
        tokens_BT: ids of the prompts, then padding: room for all of an answer but its last id.
        lengths_B: int32, ids of each prompt, at least 1.
        is_end_V: bool [vocab_size], ids that end an answer.
        most: N.
        keys_B: a PRNG key per row, from `row_keys`.
        sampling: `DRAWN`, or `GREEDY` for the likeliest ids; the latter reads no key.
    """
    batch_size, num_slots = tokens_BT.shape
    num_columns = model.config.pad_vocab(model.vocab_size)
    allowed_V = jnp.asarray(allowed_ids(num_columns, model.vocab_size))

    def is_going_on(state: _State) -> Array:
        return (state.place < most) & ~jnp.all(state.answers.ended_B)

    def add_token(state: _State) -> _State:
        answers, place, logits_BV, cache = state
        drawn_B = sample(logits_BV, sampling, allowed_V, keys_B, cache.lengths_B)
        log_p_BV = jax.nn.log_softmax(jnp.where(allowed_V, logits_BV.astype(jnp.float32), -jnp.inf))
        log_p_B = jnp.take_along_axis(log_p_BV, drawn_B[:, None], axis=1)[:, 0]
        goes_on_B = ~answers.ended_B
        added = Answers(
            ids_BN=answers.ids_BN.at[:, place].set(jnp.where(goes_on_B, drawn_B, 0)),
            log_probabilities_BN=answers.log_probabilities_BN.at[:, place].set(
                jnp.where(goes_on_B, log_p_B, 0)
            ),
            lengths_B=answers.lengths_B + goes_on_B,
            ended_B=answers.ended_B | is_end_V[drawn_B],
        )
        # A row that has ended goes on with what it draws, and nobody looks.
        valid_B1 = jnp.ones((batch_size, 1), bool)
        logits_BV, cache = next_logits(model, params, drawn_B[:, None], valid_B1, cache)
        return _State(added, place + 1, logits_BV, cache)

    valid_BT = jnp.arange(tokens_BT.shape[1]) < lengths_B[:, None]
    cache = make_cache(model.config, batch_size, num_slots, cache_dtype())
    logits_BV, cache = next_logits(model, params, tokens_BT, valid_BT, cache)
    none = Answers(
        ids_BN=jnp.zeros((batch_size, most), jnp.int32),
        log_probabilities_BN=jnp.zeros((batch_size, most), jnp.float32),
        lengths_B=jnp.zeros(batch_size, jnp.int32),
        ended_B=jnp.zeros(batch_size, bool),
    )
    start = _State(none, jnp.int32(0), logits_BV, cache)
    return jax.lax.while_loop(is_going_on, add_token, start).answers
