"""Decoding for one or two of many slots on a CPU, where each row of a program costs its time.

Another number of rows is another program, and its sums may be in another order: then what a request
gets would depend, in its last bits, on how many others there are. So `choose_program` runs the same
random state with all rows and with few, once, with the model's own weights, and few rows are used
only where all numbers of all layers are equal. In which order a program sums does not depend on the
numbers.

Axes: B slots, R of them, N steps, W words of 32 ids.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgpt.inference.engine.adapters import AdaptedDecoder
from jaxgpt.inference.engine.drawing.request_sampling import RequestSampling
from jaxgpt.inference.engine.drawing.row_sampling import Drawn, RowSettings
from jaxgpt.inference.engine.slots import Slots, all_allowed, decode, decode_steps, empty_slots
from jaxgpt.model.attention.kv_cache import MakeCache
from jaxgpt.model.gpt import Gpt
from jaxgpt.runtime.target import compile_target

logger = logging.getLogger(__name__)

# A product with one row is another kernel of XLA's CPU backend, which sums in another order.
FEW = 2
# The backend gives sums to another library from a size on, which depends on the number of rows;
# with this, products alone.
_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}

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


class SlotState:
    """The state of all slots, of which a few lie apart as long as nothing else is used.

    Args:
        slots: the state of all.
    """

    def __init__(self, slots: Slots) -> None:
        self._all = slots
        self._few: Slots | None = None
        self._rows_R = np.zeros(0, np.int32)

    @property
    def all(self) -> Slots:
        """The state of all slots; what lay apart is put back."""
        if self._few is not None:
            self._all = _put_rows(self._all, self._rows_R, self._few)
            self._few = None
        return self._all

    @all.setter
    def all(self, slots: Slots) -> None:
        self._all, self._few = slots, None

    def few(self, rows_R: np.ndarray) -> Slots:
        """Return the state of some slots, which lies apart from now on; `keep` gives the next."""
        if self._few is not None and np.array_equal(rows_R, self._rows_R):
            return self._few
        few = _take_rows(self.all, rows_R)
        self._few, self._rows_R = few, rows_R
        return few

    def keep(self, few: Slots) -> None:
        """Let what lies apart be `few`."""
        self._few = few


def choose_program(
    decoder: AdaptedDecoder, model: Gpt, num_slots: int, max_length: int, most_steps: int
) -> tuple[Callable[..., tuple[Slots, Drawn]], bool]:
    """Return a program as `decode`, and whether it may draw in few slots apart from the others.

    It may where that gains time and changes no bit.

    Args:
        decoder: has the parameters.
        model: decodes with them.
        num_slots: B.
        max_length: tokens that a slot holds.
        most_steps: N.
    """
    leaves = jax.tree.leaves(decoder.params(np.zeros(num_slots, np.int32)))
    on_one_device = all(
        leaf.sharding.num_devices == 1 for leaf in leaves if isinstance(leaf, jax.Array)
    )
    # There must be a slot next to a lone one; and with few slots there is nothing to gain.
    if not compile_target().is_cpu or not on_one_device or num_slots <= 2 * FEW:
        return decode, False
    stable = _stable_program()
    if stable is None:
        return decode, False
    # One state at a time, for the memory's sake.
    expected, found = (
        _draw_in_first(stable, decoder, model, (num_rows, max_length), most_steps)
        for num_rows in (num_slots, FEW)
    )
    leaves = zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True)
    if not all(np.array_equal(x, y) for x, y in leaves):
        logger.info("a lone request takes the time of %d: fewer rows change its bits", num_slots)
        return decode, False
    return stable, True


@functools.cache
def _stable_program() -> Callable[..., tuple[Slots, Drawn]] | None:
    """Return `decode` with sums in an order of their own; None if XLA cannot be told so."""
    try:
        jax.jit(lambda: 0, compiler_options=_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if not any(option in str(error) for option in _OPTIONS):
            raise
        logger.warning("a lone request takes the time of all slots: %s", error)
        return None
    return jax.jit(decode_steps, static_argnums=(0, 1), donate_argnums=3, compiler_options=_OPTIONS)


def _draw_in_first(
    program: Callable[..., tuple[Slots, Drawn]],
    decoder: AdaptedDecoder,
    model: Gpt,
    shape: tuple[int, int],
    most_steps: int,
) -> Any:
    """Return what a program draws in the first slots of a random state, and leaves in them."""
    num_rows, max_length = shape
    columns = model.config.pad_vocab(model.vocab_size)
    settings = RowSettings.defaults(num_rows)
    settings.wants_top_B[:] = True
    settings.put(1, _EVERYTHING, np.arange(2, dtype=np.uint32), wants_top=True)
    num_steps = min(most_steps, max_length)
    slots, drawn = program(
        model,
        most_steps,
        decoder.params(np.full(num_rows, decoder.largest, np.int32)),
        _random_slots(model, *shape, max(max_length - num_steps, 1), decoder.empty_cache),
        np.ones(num_rows, bool),
        settings,
        all_allowed(num_rows, columns),
        np.bool_(False),
        np.zeros(columns, bool),
        np.int32(num_steps),
    )
    first = _take_rows(slots, np.arange(FEW, dtype=np.int32))
    return jax.device_get((first, [x[:, :FEW] for x in drawn]))


@jax.jit
def _take_rows(slots: Slots, rows_R: Array) -> Slots:
    """Return the state of some slots."""

    def take(all_: Array) -> Array:
        # As pieces, which are copied as they lie.
        rows = [jax.lax.dynamic_slice_in_dim(all_, row, 1) for row in rows_R]
        return jnp.concatenate(rows)

    return jax.tree.map(take, slots)


@functools.partial(jax.jit, donate_argnums=0)
def _put_rows(slots: Slots, rows_R: Array, few: Slots) -> Slots:
    """Return the state of all slots with that of some."""

    def put(all_: Array, new: Array) -> Array:
        for number, row in enumerate(rows_R):
            piece = new[number : number + 1]
            all_ = jax.lax.dynamic_update_slice_in_dim(all_, piece, row, 0)
        return all_

    return jax.tree.map(put, slots, few)


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
    tokens_B = jnp.full(num_slots, model.vocab_size // 2, jnp.int32)
    return slots._replace(cache=cache, tokens_B=tokens_B)
