"""The host's side of the slots: prompts and drafted tokens in, drawn tokens with scores out.

Knows requests and the programs of slots.py, not who waits for what.

Axes: B slots, R of them, K drafted tokens, T tokens of a chunk, V padded vocabulary.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax
import numpy as np

from jaxgpt.inference.engine.drafting import Draws
from jaxgpt.inference.engine.drawing.row_sampling import Drawn
from jaxgpt.inference.engine.request import TokenScore
from jaxgpt.inference.engine.running import Running, token_scores
from jaxgpt.inference.engine.slot_settings import SlotSettings
from jaxgpt.inference.engine.slots.adapters import AdaptedDecoder
from jaxgpt.inference.engine.slots.decoding_model import make_decoding_model
from jaxgpt.inference.engine.slots.few_slots import FEW, choose_program
from jaxgpt.inference.engine.slots.slot_state import SlotState
from jaxgpt.inference.engine.slots.slots import (
    begin,
    chunk_shape,
    copy_slot,
    draw_first,
    empty_slots,
    read_and_score_chunk,
    read_chunk,
)
from jaxgpt.inference.engine.slots.verification import choose_verification

P = ParamSpec("P")
T = TypeVar("T")


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
        most_drafts: drafted tokens that `verify` takes at most; 0: it is not used.

    Attributes:
        verifies_alike: whether `verify` draws with the bits of `decode`.

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
        most_drafts: int = 0,
    ) -> None:
        self._decoder = decoder
        model = make_decoding_model(decoder.model, max_length, decoder.is_shared)
        self._decoding_model = model
        self._shape = num_slots, max_length
        self._chunk = chunk
        self._most_steps = most_steps
        self._settings = SlotSettings(decoder, *self._shape)
        self._decode, self._has_few = choose_program(decoder, model, *self._shape, most_steps)
        self._most_drafts, self.verifies_alike = most_drafts, True
        if most_drafts:
            plain = self._decode, self._has_few, most_steps
            with decoder.on_devices():
                self._verify, self.verifies_alike = choose_verification(
                    decoder, model, self._shape, plain, most_drafts
                )
            # What a request gets must not depend on how many others there are.
            self._has_few = self._has_few and self.verifies_alike
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
        first, slot = self._settings.begin(running), running.slot
        if source != slot:
            self._state.all = copy_slot(self._state.all, np.int32(source), np.int32(slot))
        places = (np.int32(slot), np.int32(running.num_reused))
        self._state.all = begin(self._state.all, *places, first)

    def leave(self, running: Running) -> None:
        """Forget the settings of a request, so that its filters are computed for nobody."""
        self._settings.leave(running)

    def fill(self, running: Running) -> bool:
        """Write what a request's constraint allows next; return whether it forbids anything.

        Raises:
            ConstraintError: it cannot go on.
        """
        return self._settings.fill(running)

    @_on_devices
    def read(self, running: Running) -> Any:
        """Read the next chunk of a prompt; return the scores of what follows it, [V]."""
        chunk = running.next_chunk(self._chunk)
        tokens_T = np.zeros(chunk_shape(len(chunk), self._chunk, self._shape[1]), np.int32)
        tokens_T[: len(chunk)] = chunk
        places = (np.int32(running.slot), tokens_T)
        params = self._settings.params(slice(running.slot, running.slot + 1))
        if running.request.score_prompt:
            logits_V = self._read_and_score(running, places, len(chunk))
        else:
            self._state.all, logits_V = read_chunk(
                self._decoder.model, params, self._state.all, *places, np.int32(len(chunk))
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
            self._settings.params(slice(running.slot, running.slot + 1)),
            self._state.all,
            *places,
            targets_T,
            np.int32(num_tokens),
            np.bool_(request.top_tokens > 0),
        )
        if not start:
            running.prompt_scores.append(TokenScore(request.prompt[0], float("nan")))
        steps = range(len(following))
        running.prompt_scores += token_scores(jax.device_get(scores), steps, request.top_tokens)
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
            self._settings.settings(row),
            self._settings.allowed(row),
            self._settings.stop_V,
        )
        return token_scores(jax.device_get(drawn), [0], running.request.top_tokens)

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
        rows_R, places = self._choose_rows(decoding)
        slots, drawn = self._decode(
            self._decoding_model,
            self._most_steps,
            self._settings.params(rows_R),
            self._slots(rows_R),
            self._are_active(places, rows_R),
            self._settings.settings(rows_R),
            self._settings.allowed(rows_R),
            np.bool_(constrained),
            self._settings.stop_V,
            np.int32(num_steps),
        )
        self._keep(rows_R, slots)
        numbers = [num_steps] * len(decoding)
        return _scores(decoding, jax.device_get(drawn), places, numbers)

    @_on_devices
    def verify(
        self, decoding: Sequence[Running], drafts: Sequence[Sequence[int]]
    ) -> list[list[TokenScore]]:
        """Draw a token in the slot of each request, and one more for each right one of its drafts.

        Args:
            decoding: the requests; `fill` has been called for each.
            drafts: of each request; none where `fill` returned True.
        """
        rows_R, places = self._choose_rows(decoding)
        drafts_RK = np.zeros((len(rows_R), self._most_drafts), np.int32)
        num_drafts_R = np.zeros(len(rows_R), np.int32)
        for place, ids in zip(places, drafts, strict=True):
            drafts_RK[place, : len(ids)] = ids
            num_drafts_R[place] = len(ids)
        slots, verified = self._verify(
            self._decoding_model,
            self._settings.params(np.repeat(rows_R, self._most_drafts + 1)),
            self._slots(rows_R),
            self._are_active(places, rows_R),
            drafts_RK,
            num_drafts_R,
            self._settings.settings(rows_R),
            self._settings.allowed(rows_R),
            self._settings.stop_V,
        )
        self._keep(rows_R, slots)
        drawn, numbers_R = jax.device_get(verified)
        return _scores(decoding, drawn, places, numbers_R[places].tolist())

    @_on_devices
    def draws(self, decoding: Sequence[Running]) -> Draws:
        """Return how the slots of some requests draw, with others that are computed along."""
        rows_R, _ = self._choose_rows(decoding)
        return Draws(
            rows_R, self._settings.settings(rows_R), self._slots(rows_R).seen, self._settings.stop_V
        )

    def _choose_rows(self, decoding: Sequence[Running]) -> tuple[np.ndarray, np.ndarray]:
        """Return the slots that are computed, R of them, and the places of the requests there."""
        mine, num_slots = [running.slot for running in decoding], self._shape[0]
        are_few = self._has_few and len(mine) <= FEW
        others = (slot for slot in range(num_slots) if slot not in mine)
        rows_R = np.array([*mine, *others][: FEW if are_few else num_slots], np.int32)
        rows_R.sort()
        return rows_R, np.searchsorted(rows_R, mine)

    def _slots(self, rows_R: np.ndarray) -> Any:
        return self._state.few(rows_R) if len(rows_R) < self._shape[0] else self._state.all

    def _keep(self, rows_R: np.ndarray, slots: Any) -> None:
        if len(rows_R) < self._shape[0]:
            self._state.keep(slots)
        else:
            self._state.all = slots

    def _are_active(self, places: np.ndarray, rows_R: np.ndarray) -> np.ndarray:
        active_R = np.zeros(len(rows_R), bool)
        active_R[places] = True
        return active_R


def _scores(
    decoding: Sequence[Running], drawn: Drawn, places: np.ndarray, numbers: Sequence[int]
) -> list[list[TokenScore]]:
    """Return the tokens of each request out of `drawn`, fields [N, R, ...], as many as count."""
    return [
        token_scores(
            Drawn(*(field[:, place] for field in drawn)), range(number), running.request.top_tokens
        )
        for running, place, number in zip(decoding, places, numbers, strict=True)
    ]
