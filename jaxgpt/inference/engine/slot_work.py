"""The host's side of the slots: settings of their requests in, drawn tokens with scores out.

Knows requests and the programs of slots.py, not who waits for what.

Axes: B slots, A adapters and none, T tokens of a chunk, V padded vocabulary.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.config import replace
from jaxgpt.inference.engine.adapters import AdaptedDecoder
from jaxgpt.inference.engine.drawing.request_sampling import RequestSampling
from jaxgpt.inference.engine.drawing.row_sampling import Drawn, RowSettings, Seen
from jaxgpt.inference.engine.few_slots import FEW, SlotState, choose_program
from jaxgpt.inference.engine.request import Request, TokenScore
from jaxgpt.inference.engine.running import Running
from jaxgpt.inference.engine.slots import (
    all_allowed,
    begin,
    copy_slot,
    draw_first,
    empty_slots,
    read_and_score_chunk,
    read_chunk,
)
from jaxgpt.inference.sampling import allowed_ids, row_keys
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.attention.cached_blocks import CachedBlocks
from jaxgpt.model.gpt import Gpt
from jaxgpt.runtime.target import compile_target

P = ParamSpec("P")
T = TypeVar("T")
_SMALLEST_CHUNK = 16
_MOST_BLOCKS = 8
_GREEDY = RequestSampling(temperature=0.0)
_ALL_BITS = 0xFFFFFFFF


def _on_devices(
    method: "Callable[Concatenate[SlotWork, P], T]",
) -> "Callable[Concatenate[SlotWork, P], T]":
    """Trace and run the programs of a method on the decoder's devices."""

    @functools.wraps(method)
    def run(self: "SlotWork", *arguments: P.args, **named: P.kwargs) -> T:
        with self._decoder.on_devices():
            return method(self, *arguments, **named)

    return run


class SlotWork:
    """The slots of one model.

    Args:
        decoder: the model with its adapters.
        num_slots: number of slots.
        max_length: tokens that a slot holds.
        chunk: tokens of a prompt that are read at once.
        most_steps: tokens that `decode` draws at most.

    Raises:
        ConfigError: the model has too few positions for `max_length`.
    """

    def __init__(
        self,
        decoder: AdaptedDecoder,
        num_slots: int,
        max_length: int,
        chunk: int,
        most_steps: int,
    ) -> None:
        self._decoder = decoder
        self._decoding_model = _read_short(decoder, max_length)
        self._shape = num_slots, max_length
        self._chunk = chunk
        self._most_steps = most_steps
        vocab_size = decoder.model.vocab_size
        columns = decoder.model.config.pad_vocab(vocab_size)
        allowed = [
            allowed_ids(columns, vocab_size, decoder.forbidden_ids(number))
            for number in range(decoder.largest + 1)
        ]
        self._bias_AV = np.where(allowed, 0, -np.inf).astype(np.float32)
        self._adapters_B = np.zeros(num_slots, np.int32)
        self._stop_V = np.zeros(columns, bool)
        self._stop_V[list(decoder.stop_ids)] = True
        self._settings = RowSettings.defaults(num_slots)
        self._allowed_BW = all_allowed(num_slots, columns)
        self._decode, self._has_few = choose_program(
            decoder, self._decoding_model, num_slots, max_length, most_steps
        )
        self.reset()

    @_on_devices
    def reset(self) -> None:
        """Begin with empty slots."""
        # The memory of the old ones first.
        self._state: Any = None
        slots = empty_slots(self._decoding_model, *self._shape, self._decoder.empty_cache)
        self._state = SlotState(slots)

    @_on_devices
    def begin(self, running: Running, source: int) -> None:
        """Give a slot to a request whose first tokens the slot `source` holds already."""
        request, slot = running.request, running.slot
        self._adapters_B[slot] = request.adapter
        bias_V = self._bias_AV[request.adapter].copy()
        for token, bias in request.bias.items():
            bias_V[token] += bias
        if request.ignore_stop:
            bias_V[self._stop_V] = -np.inf
        first = self._seen_at_first(request, bias_V)
        key = row_keys(request.seed, jnp.asarray([request.row], jnp.uint32))[0]
        key_data_2 = np.asarray(jax.random.key_data(key))
        self._settings.put(slot, request.sampling, key_data_2, request.top_tokens > 0)
        if source != slot:
            self._state.all = copy_slot(self._state.all, np.int32(source), np.int32(slot))
        places = (np.int32(slot), np.int32(running.num_reused))
        self._state.all = begin(self._state.all, *places, first)

    def _seen_at_first(self, request: Request, bias_V: np.ndarray) -> Any:
        """Return what a request begins with; see `Seen`."""
        prompt_V, breakers_V = np.zeros((2, len(bias_V)), bool)
        prompt_V[list(request.prompt)] = True
        breakers_V[list(request.breakers)] = True
        tokens_T = np.zeros(self._shape[1], np.int32)
        tokens_T[: len(request.prompt)] = request.prompt
        # Host arrays, which the program takes to the device.
        return Seen(prompt_V, np.zeros(len(bias_V), np.int32), bias_V, tokens_T, breakers_V)  # type: ignore[arg-type]

    def leave(self, running: Running) -> None:
        """Forget the settings of a request, so that its filters are computed for nobody."""
        self._settings.put(running.slot, _GREEDY, np.zeros(2, np.uint32), False)

    @_on_devices
    def read(self, running: Running) -> Any:
        """Read the next chunk of a prompt; return the scores of what follows it, [V]."""
        chunk = running.next_chunk(self._chunk)
        tokens_T = np.zeros(self._padded(len(chunk)), np.int32)
        tokens_T[: len(chunk)] = chunk
        places = (np.int32(running.slot), tokens_T)
        model, params = self._decoder.model, self._params(slice(running.slot, running.slot + 1))
        if running.request.score_prompt:
            logits_V = self._read_and_score(running, places, len(chunk))
        else:
            self._state.all, logits_V = read_chunk(
                model, params, self._state.all, *places, np.int32(len(chunk))
            )
        running.num_read += len(chunk)
        return logits_V

    def _read_and_score(
        self, running: Running, places: tuple[np.int32, np.ndarray], num_tokens: int
    ) -> Any:
        request, start = running.request, running.num_read
        following = request.prompt[start + 1 : start + 1 + num_tokens]
        targets_T = np.zeros_like(places[1])
        targets_T[: len(following)] = following
        self._state.all, logits_V, scores = read_and_score_chunk(
            self._decoder.model,
            self._params(slice(running.slot, running.slot + 1)),
            self._state.all,
            *places,
            targets_T,
            np.int32(num_tokens),
            np.bool_(request.top_tokens > 0),
        )
        if not start:
            running.prompt_scores.append(TokenScore(request.prompt[0], float("nan")))
        steps = range(len(following))
        running.prompt_scores += _token_scores(jax.device_get(scores), steps, request.top_tokens)
        return logits_V

    @_on_devices
    def draw_first(self, running: Running, logits_V: Any) -> list[TokenScore]:
        """Draw the first token of a request whose prompt is read.

        Raises:
            ConstraintError: its constraint cannot go on.
        """
        row = slice(running.slot, running.slot + 1)
        self.fill(running)
        self._state.all, drawn = draw_first(
            self._state.all,
            np.int32(running.slot),
            logits_V,
            self._settings.rows(row),
            self._allowed_BW[row].copy(),
            self._stop_V,
        )
        return _token_scores(jax.device_get(drawn), [0], running.request.top_tokens)

    @_on_devices
    def decode(
        self, decoding: Sequence[Running], num_steps: int, constrained: bool
    ) -> list[list[TokenScore]]:
        """Draw more tokens in the slots of some requests, at the same time.

        Args:
            decoding: the requests; `fill` has been called for each.
            num_steps: how many tokens each draws.
            constrained: whether any `fill` returned True.
        """
        mine, num_slots = [running.slot for running in decoding], self._shape[0]
        are_few = self._has_few and len(mine) <= FEW
        others = (slot for slot in range(num_slots) if slot not in mine)
        rows_R = np.array([*mine, *others][: FEW if are_few else num_slots], np.int32)
        rows_R.sort()
        slots, drawn = self._decode(
            self._decoding_model,
            self._most_steps,
            self._params(rows_R),
            self._state.few(rows_R) if are_few else self._state.all,
            np.isin(rows_R, mine),
            self._settings.rows(rows_R),
            self._allowed_BW[rows_R],
            np.bool_(constrained),
            self._stop_V,
            np.int32(num_steps),
        )
        if are_few:
            self._state.keep(slots)
        else:
            self._state.all = slots
        drawn_NR = jax.device_get(drawn)
        return [
            _token_scores(
                Drawn(*(field[:, place] for field in drawn_NR)),
                range(num_steps),
                running.request.top_tokens,
            )
            for running, place in zip(decoding, np.searchsorted(rows_R, mine), strict=True)
        ]

    def fill(self, running: Running) -> bool:
        """Write what a request's constraint allows next; return whether it forbids anything.

        Raises:
            ConstraintError: it cannot go on.
        """
        row_W = self._allowed_BW[running.slot]
        row_W[:] = _ALL_BITS
        constraint = running.request.constraint
        return constraint is not None and constraint.fill(row_W)

    def _params(self, slots: slice | np.ndarray) -> Any:
        """Return the parameters for rows that are these slots."""
        return self._decoder.params(self._adapters_B[slots])

    def _padded(self, num_tokens: int) -> int:
        """Round up to a power of two, up to a whole chunk: a few programs for all prompts."""
        size = max(_SMALLEST_CHUNK, 1 << (num_tokens - 1).bit_length())
        # Learned positions have no more tokens than the context.
        return min(size, self._chunk, max(num_tokens, self._shape[1]))


def _read_short(decoder: AdaptedDecoder, max_length: int) -> Gpt:
    """Return a model that reads as much of a cache as its longest row needs.

    On one CPU, where reading is what a step's time is spent on. A GPU would wait for the number.
    """
    model, is_one_cpu = decoder.model, compile_target().is_cpu and not decoder.is_shared
    attention = model.config.attention
    if not is_one_cpu or not isinstance(attention, GroupedQueryAttention):
        return model
    # More blocks would take longer to compile than they save.
    kernel = CachedBlocks()
    kernel = replace(kernel, block=max(kernel.block, -(-max_length // _MOST_BLOCKS)))
    attention = replace(attention, kernel=kernel)
    return model.clone(config=replace(model.config, attention=attention))


def _token_scores(drawn: Drawn, places: Iterable[int], num_top: int) -> list[TokenScore]:
    """Return drawn tokens on the host as plain values."""
    found = []
    for place in places:
        ids_K = drawn.top_ids_BK[place, :num_top].tolist()
        scores_K = drawn.top_log_probabilities_BK[place, :num_top].tolist()
        score = float(drawn.log_probabilities_B[place])
        top = tuple(zip(ids_K, scores_K, strict=True))
        found.append(TokenScore(int(drawn.tokens_B[place]), score, top))
    return found
