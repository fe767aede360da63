"""Settings of the requests in the slots, as arrays that the programs take.

Axes: B slots, R of them, A adapters and none, V padded vocabulary, W words of 32 ids.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.inference.engine.drawing.request_sampling import RequestSampling
from jaxgpt.inference.engine.drawing.row_sampling import RowSettings, Seen
from jaxgpt.inference.engine.request import Request
from jaxgpt.inference.engine.running import Running
from jaxgpt.inference.engine.slots.adapters import AdaptedDecoder
from jaxgpt.inference.engine.slots.slots import all_allowed
from jaxgpt.inference.sampling import allowed_ids, row_keys

_GREEDY = RequestSampling(temperature=0.0)
_ALL_BITS = 0xFFFFFFFF


class SlotSettings:
    """Settings of all slots, on the host; what is returned are copies.

    Args:
        decoder: the model with its adapters.
        num_slots: B.
        max_length: tokens that a slot holds.
    """

    def __init__(self, decoder: AdaptedDecoder, num_slots: int, max_length: int) -> None:
        self._decoder = decoder
        self._max_length = max_length
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

    def begin(self, running: Running) -> Any:
        """Take the settings of a request; return what its slot begins with, see `Seen`."""
        request, slot = running.request, running.slot
        self._adapters_B[slot] = request.adapter
        bias_V = self._bias_AV[request.adapter].copy()
        for token, bias in request.bias.items():
            bias_V[token] += bias
        if request.ignore_stop:
            bias_V[self._stop_V] = -np.inf
        key = row_keys(request.seed, jnp.asarray([request.row], jnp.uint32))[0]
        key_data_2 = np.asarray(jax.random.key_data(key))
        self._settings.put(slot, request.sampling, key_data_2, request.top_tokens > 0)
        return self._seen_at_first(request, bias_V)

    def _seen_at_first(self, request: Request, bias_V: np.ndarray) -> Any:
        prompt_V, breakers_V = np.zeros((2, len(bias_V)), bool)
        prompt_V[list(request.prompt)] = True
        breakers_V[list(request.breakers)] = True
        tokens_T = np.zeros(self._max_length, np.int32)
        tokens_T[: len(request.prompt)] = request.prompt
        # Host arrays, which the program takes to the device.
        return Seen(prompt_V, np.zeros(len(bias_V), np.int32), bias_V, tokens_T, breakers_V)  # type: ignore[arg-type]

    def leave(self, running: Running) -> None:
        """Forget the settings of a request, so that its filters are computed for nobody."""
        self._settings.put(running.slot, _GREEDY, np.zeros(2, np.uint32), False)

    def fill(self, running: Running) -> bool:
        """Write what a request's constraint allows next; return whether it forbids anything.

        Raises:
            ConstraintError: it cannot go on.
        """
        row_W = self._allowed_BW[running.slot]
        row_W[:] = _ALL_BITS
        constraint = running.request.constraint
        return constraint is not None and constraint.fill(row_W)

    def params(self, rows: slice | np.ndarray) -> Any:
        """Return the model's parameters for rows that are these slots."""
        return self._decoder.params(self._adapters_B[rows])

    def settings(self, rows: slice | np.ndarray) -> RowSettings:
        """Return how some slots draw."""
        return self._settings.rows(rows)

    def allowed(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return what the constraints of some slots allow, uint32 [R, W]."""
        return self._allowed_BW[rows].copy()

    @property
    def stop_V(self) -> np.ndarray:
        """Return which ids end an answer, bool [V]."""
        return self._stop_V
