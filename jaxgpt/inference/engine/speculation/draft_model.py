"""`DraftModel`: a smaller model of the same tokenizer, which writes ahead.

It draws with the settings and the keys of the model that verifies. Where the two have the same
probabilities they draw the same token, also at random (the Gumbel-max trick with shared noise), so
that a draft of the model's own twin is always right.

Its cache holds the tokens that it has read or drawn for each slot. Those that are no beginning of
the slot's text any longer, since the model drew others, are overwritten.

Axes: B slots, R of them, K drafted tokens, T tokens of a chunk, V padded vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgpt.config import configclass
from jaxgpt.errors import MismatchError
from jaxgpt.inference.cpu_layout import cache_dtype
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decode_programs import next_logits
from jaxgpt.inference.decoding_weights import are_shared, restore
from jaxgpt.inference.engine.drafting import (
    Drafter,
    Draws,
    OpenCheckpoint,
    Speculation,
    Target,
    Text,
)
from jaxgpt.inference.engine.drawing.row_sampling import RowSettings, Seen, draw_rows
from jaxgpt.inference.engine.slots.decoding_model import make_decoding_model
from jaxgpt.inference.engine.slots.slot_state import SlotState
from jaxgpt.inference.engine.slots.slots import chunk_shape, put_row, take_row
from jaxgpt.inference.engine.slots.verify import read_tokens
from jaxgpt.model.attention.kv_cache import KVCache
from jaxgpt.model.gpt import Gpt, make_cache

# Tokens of a text that writing ahead can begin with: all but one were drawn by the draft model
# itself, unless the last draft was right to its end.
_MOST_NEW = 2
_HIDDEN = -1e30


@configclass
class DraftModel(Speculation):
    """Tokens that a smaller model of the same tokenizer writes ahead."""

    checkpoint: str
    """Run folder of the model that drafts, or its URL."""
    step: str = "latest"
    """Checkpoint of the model that drafts: latest, best (lowest validation loss), or a step's
    number."""

    def open(self, open_checkpoint: OpenCheckpoint) -> None:
        open_checkpoint(self.checkpoint, self.step)

    def build(self, target: Target, open_checkpoint: OpenCheckpoint) -> Drafter:
        return ModelDrafter(open_checkpoint(self.checkpoint, self.step), target, self.most)


class ModelDrafter:
    """Writes ahead with a model; see `Drafter`.

    Args:
        decoder: the model that drafts.
        target: the one that verifies.
        most: K.

    Raises:
        MismatchError: the models have vocabularies of different sizes.
        ConfigError: the model that drafts has too few positions for the target's slots.
    """

    def __init__(self, decoder: Decoder, target: Target, most: int) -> None:
        if decoder.model.vocab_size != target.model.vocab_size:
            raise MismatchError(
                f"the model that drafts has {decoder.model.vocab_size} ids and the one that "
                f"verifies {target.model.vocab_size}; let a run of the same tokenizer draft"
            )
        self.most = most
        self._decoder = decoder
        self._target = target
        self._model = make_decoding_model(
            decoder.model, target.max_length, are_shared(decoder.params)
        )
        self.reset()

    def reset(self) -> None:
        """Begin with an empty cache."""
        shape = self._target.num_slots, self._target.max_length
        # The memory of the old one first.
        self._state: SlotState[KVCache] | None = None
        with self._decoder.on_devices():
            cache = make_cache(self._model.config, *shape, cache_dtype(), self._decoder.empty_cache)
        self._state = SlotState(cache)
        self._held = [np.zeros(0, np.int64) for _ in range(shape[0])]

    def draft(self, texts: Sequence[Text], draws: Draws) -> list[list[int]]:
        """Return the next ids of each text; none of those that are not read up to their end.

        One chunk is read in a call, so that a long prompt holds nobody up.
        """
        with self._decoder.on_devices():
            ready = self._catch_up([text for text in texts if text.room > 0])
            found = self._write_ahead(ready, draws) if ready else {}
        return [found.get(text.slot, [])[: text.room] for text in texts]

    def _catch_up(self, texts: Sequence[Text]) -> list[Text]:
        """Read more of some texts; return those of which at most `_MOST_NEW` tokens are left."""
        room, ready = self._target.chunk, []
        for text in sorted(texts, key=self._num_left):
            if room > 0 and self._num_left(text) > _MOST_NEW:
                room -= self._read(text)
            if self._num_left(text) <= _MOST_NEW:
                ready.append(text)
        return ready

    def _num_left(self, text: Text) -> int:
        """Return how many tokens the cache lacks; the last one always is, for its scores."""
        held = self._held[text.slot]
        length = min(len(held), len(text.ids) - 1)
        differ = np.flatnonzero(held[:length] != text.ids[:length])
        return len(text.ids) - (int(differ[0]) if len(differ) else length)

    def _read(self, text: Text) -> int:
        """Read a chunk of a text into its slot; return the number of tokens."""
        assert self._state is not None
        left = self._num_left(text)
        start, number = len(text.ids) - left, min(left - 1, self._target.chunk)
        tokens_T = np.zeros(
            chunk_shape(number, self._target.chunk, self._target.max_length), np.int32
        )
        tokens_T[:number] = text.ids[start : start + number]
        places = np.int32(text.slot), np.int32(start), tokens_T, np.int32(number)
        self._state.all = _read_chunk(
            self._decoder.model, self._decoder.params, self._state.all, *places
        )
        self._held[text.slot] = text.ids[: start + number]
        return number

    def _write_ahead(self, texts: Sequence[Text], draws: Draws) -> dict[int, list[int]]:
        """Return K ids for each text, by its slot."""
        assert self._state is not None
        rows_R = draws.rows_R
        new_RN = np.zeros((len(rows_R), _MOST_NEW), np.int32)
        num_new_R, held_R = np.zeros((2, len(rows_R)), np.int32)
        places = np.searchsorted(rows_R, [text.slot for text in texts])
        for place, text in zip(places, texts, strict=True):
            left = self._num_left(text)
            new_RN[place, :left] = text.ids[-left:]
            num_new_R[place], held_R[place] = left, len(text.ids) - left
        are_few = len(rows_R) < self._target.num_slots
        cache, drafts = write_ahead(
            self._model,
            self.most,
            self._decoder.params,
            self._state.few(rows_R) if are_few else self._state.all,
            held_R,
            new_RN,
            num_new_R,
            draws.settings,
            draws.seen,
            draws.stop_V,
        )
        if are_few:
            self._state.keep(cache)
        else:
            self._state.all = cache
        drafts_RK = np.asarray(drafts)
        for place, text in zip(places, texts, strict=True):
            # The last one was drawn and not read.
            self._held[text.slot] = np.concatenate([text.ids, drafts_RK[place, :-1]])
        return {
            text.slot: drafts_RK[place].tolist() for place, text in zip(places, texts, strict=True)
        }


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _read_chunk(
    model: Gpt,
    params: Any,
    cache: KVCache,
    slot: Array,
    held: Array,
    tokens_T: Array,
    num_tokens: Array,
) -> KVCache:
    """Return a cache in which a slot holds `num_tokens` more tokens behind the first `held`."""
    row = dataclasses.replace(take_row(cache, slot), lengths_B=held[None])
    valid_1T = (jnp.arange(tokens_T.shape[0]) < num_tokens)[None].astype(jnp.int32)

    def read(gpt: Gpt) -> KVCache:
        after = gpt.hidden_states(tokens_T[None], valid_1T, cache=row)[1]
        assert after is not None
        return after

    apply: Callable[..., Any] = model.apply
    return put_row(cache, slot, apply({"params": restore(params)}, method=read))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def write_ahead(
    model: Gpt,
    most: int,
    params: Any,
    cache: KVCache,
    held_R: Array,
    new_RN: Array,
    num_new_R: Array,
    settings: RowSettings,
    seen: Seen,
    stop_V: Array,
) -> tuple[KVCache, Array]:
    """Read the last tokens of some texts, and draw K more: the cache, and int32 [R, K].

    Args:
        model: whose parameters follow.
        most: K.
        params: as they are, or from `lay_out`.
        cache: of R slots.
        held_R: int32, tokens of each slot that count.
        new_RN: int32, further tokens of its text.
        num_new_R: int32, how many of them count; 0 for slots that nobody asks for.
        settings: how each slot draws.
        seen: what each slot has, its new tokens included.
        stop_V: bool, ids that end an answer; V columns as the target's.
    """
    active_R, rows_R = num_new_R > 0, jnp.arange(num_new_R.shape[0])
    draw = functools.partial(_draw, model.vocab_size, active_R, settings, stop_V)
    cache = dataclasses.replace(cache, lengths_B=held_R)
    valid_RN = jnp.arange(new_RN.shape[1]) < num_new_R[:, None]
    logits_NRV, cache = read_tokens(model, params, new_RN, valid_RN, cache)
    cache = dataclasses.replace(cache, lengths_B=held_R + num_new_R)
    logits_RV = logits_NRV[jnp.maximum(num_new_R - 1, 0), rows_R]
    first_R, seen = draw(logits_RV, cache, seen)

    def step(carry: tuple[Array, KVCache, Seen], _: None) -> Any:
        tokens_R, cache, seen = carry
        logits_RV, cache = next_logits(model, params, tokens_R[:, None], active_R[:, None], cache)
        tokens_R, seen = draw(logits_RV, cache, seen)
        return (tokens_R, cache, seen), tokens_R

    start = first_R, cache, seen
    (_, cache, _), later_KR = jax.lax.scan(step, start, length=most - 1)
    return cache, jnp.concatenate([first_R[None], later_KR]).T


def _draw(
    vocab_size: int,
    active_R: Array,
    settings: RowSettings,
    stop_V: Array,
    logits_RV: Array,
    cache: KVCache,
    seen: Seen,
) -> tuple[Array, Seen]:
    """Draw the next token of each slot: int32 [R], and what each slot has with it."""
    places_R, rows_R = cache.lengths_B, jnp.arange(active_R.shape[0])
    settings = settings._replace(wants_top_B=jnp.zeros_like(active_R))
    allowed_RV = jnp.ones((active_R.shape[0], stop_V.shape[0]), bool)
    scores_RV = _fit(logits_RV, vocab_size, stop_V.shape[0])
    drawn = draw_rows(scores_RV, settings, seen, allowed_RV, stop_V, places_R)
    # A model whose scores are no numbers guesses wrong.
    tokens_R = jnp.maximum(drawn.tokens_B, 0)
    return tokens_R, seen.add(rows_R, tokens_R, places_R, active_R)


def _fit(logits_RV: Array, vocab_size: int, num_columns: int) -> Array:
    """Return scores with another number of columns that pad the vocabulary."""
    padding = ((0, 0), (0, num_columns - vocab_size))
    return jnp.pad(logits_RV[:, :vocab_size], padding, constant_values=_HIDDEN)
