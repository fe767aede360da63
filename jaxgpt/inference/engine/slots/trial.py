"""A trial of two programs on one random state: whether they give the same bits.

Another number of rows is another program, and its sums may be in another order. In which order a
program sums does not depend on the numbers, so one trial with the model's own weights tells.

Axes: B slots, N steps, T places.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgpt.inference.engine.drawing.request_sampling import RequestSampling
from jaxgpt.inference.engine.drawing.row_sampling import Drawn, RowSettings
from jaxgpt.inference.engine.slots.adapters import AdaptedDecoder
from jaxgpt.inference.engine.slots.slot_state import take_rows
from jaxgpt.inference.engine.slots.slots import Slots, all_allowed, empty_slots
from jaxgpt.inference.engine.slots.verify import Verified
from jaxgpt.model.attention.kv_cache import MakeCache
from jaxgpt.model.gpt import Gpt

Decode = Callable[..., tuple[Slots, Drawn]]
Verify = Callable[..., tuple[Slots, Verified]]

# What a row can ask for, of which each has an own branch in the programs.
_EVERYTHING = RequestSampling(
    temperature=0.8,
    top_k=40,
    top_p=0.9,
    min_p=0.01,
    repetition_penalty=1.1,
    dry_multiplier=0.8,
    xtc_probability=0.5,
)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A random state of some slots, from which programs draw.

    Attributes:
        decoder: has the parameters.
        model: decodes with them.
        num_slots: B.
        max_length: tokens that a slot holds.
        num_tokens: tokens that are drawn in each slot.
    """

    decoder: AdaptedDecoder
    model: Gpt
    num_slots: int
    max_length: int
    num_tokens: int

    def decode(self, program: Decode, most_steps: int) -> tuple[Slots, Drawn]:
        """Return the state after a program as `decode` has drawn, and what it drew, on the host."""
        slots, parts = self._start(), []
        for done in range(0, self.num_tokens, most_steps):
            num_steps = min(self.num_tokens - done, most_steps)
            slots, more = program(
                self.model,
                most_steps,
                self._params(1),
                slots,
                np.ones(self.num_slots, bool),
                self._settings(),
                all_allowed(self.num_slots, self._columns),
                np.bool_(False),
                np.zeros(self._columns, bool),
                np.int32(num_steps),
            )
            parts.append(Drawn(*(field[:num_steps] for field in jax.device_get(more))))
        return slots, jax.tree.map(lambda *each: np.concatenate(each), *parts)

    def verify(self, program: Verify, tokens_TB: np.ndarray) -> tuple[Slots, Drawn]:
        """Return what `decode` does, from a program that gets all tokens but the last as drafts."""
        slots, verified = program(
            self.model,
            self._params(len(tokens_TB)),
            self._start(),
            np.ones(self.num_slots, bool),
            tokens_TB[:-1].T,
            np.full(self.num_slots, len(tokens_TB) - 1, np.int32),
            self._settings(),
            all_allowed(self.num_slots, self._columns),
            np.zeros(self._columns, bool),
        )
        return slots, jax.device_get(verified.drawn)

    @property
    def _columns(self) -> int:
        return self.model.config.pad_vocab(self.model.vocab_size)

    def _params(self, tokens_per_slot: int) -> Any:
        number = self.decoder.largest
        return self.decoder.params(np.full(self.num_slots * tokens_per_slot, number, np.int32))

    def _settings(self) -> RowSettings:
        settings = RowSettings.defaults(self.num_slots)
        settings.wants_top_B[:] = True
        last = min(1, self.num_slots - 1)
        settings.put(last, _EVERYTHING, np.arange(2, dtype=np.uint32), wants_top=True)
        return settings

    def _start(self) -> Slots:
        length = max(self.max_length - self.num_tokens, 1)
        shape = self.num_slots, self.max_length, length
        return _random_slots(self.model, *shape, self.decoder.empty_cache)


def in_first(result: tuple[Slots, Drawn], num_slots: int) -> list[np.ndarray]:
    """Return what a program drew in the first slots, and left in them, as arrays on the host."""
    slots, drawn = result
    first = take_rows(slots, np.arange(num_slots, dtype=np.int32))
    fields = [field[:, :num_slots] for field in drawn]
    return [np.asarray(leaf) for leaf in jax.tree.leaves((first, fields))]


def are_equal(expected: list[np.ndarray], found: list[np.ndarray]) -> bool:
    """Return whether two results of `in_first` are equal, bit for bit."""
    return all(np.array_equal(x, y) for x, y in zip(expected, found, strict=True))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _random_slots(
    model: Gpt, num_slots: int, max_length: int, length: int, empty: MakeCache
) -> Slots:
    """Return slots with `length` random keys and values, the same in each slot."""
    slots = empty_slots(model, num_slots, max_length, empty)
    cache = slots.cache
    num_heads, head_dim = (cache.k_BKCH[0][0].shape[axis] for axis in (1, 3))
    keys = jax.random.split(jax.random.key(0), (model.config.num_layers, 2))
    for layer, pair in enumerate(keys):
        k_BTKH, v_BTKH = (
            jnp.broadcast_to(
                jax.random.normal(key, (length, num_heads, head_dim)),
                (num_slots, length, num_heads, head_dim),
            )
            for key in pair
        )
        cache = cache.write(layer, k_BTKH, v_BTKH, jnp.arange(length)[None])
    cache = dataclasses.replace(cache, lengths_B=jnp.full(num_slots, length, jnp.int32))
    tokens_B: Array = jnp.full(num_slots, model.vocab_size // 2, jnp.int32)
    return slots._replace(cache=cache, tokens_B=tokens_B)
