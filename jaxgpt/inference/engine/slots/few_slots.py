"""Decoding for one or two of many slots on a CPU, where each row of a program costs its time.

Another number of rows is another program, and its sums may be in another order: then what a request
gets would depend, in its last bits, on how many others there are. So `choose_program` tries both on
one random state, once, and few rows are used only where all numbers of all layers are equal.

Axes: B slots, N steps.
"""

import functools
import logging

import jax
import numpy as np

from jaxgpt.inference.engine.slots.adapters import AdaptedDecoder
from jaxgpt.inference.engine.slots.slots import decode, decode_steps
from jaxgpt.inference.engine.slots.trial import Decode, Trial, are_equal, in_first
from jaxgpt.model.gpt import Gpt
from jaxgpt.runtime.target import compile_target

logger = logging.getLogger(__name__)

# A product with one row is another kernel of XLA's CPU backend, which sums in another order.
FEW = 2
# The backend gives sums to another library from a size on, which depends on the number of rows;
# with this, products alone.
STABLE_SUMS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def choose_program(
    decoder: AdaptedDecoder, model: Gpt, num_slots: int, max_length: int, most_steps: int
) -> tuple[Decode, bool]:
    """Return a program as `decode`, and whether it may draw in few slots apart from the others.

    It may where that gains time and changes no bit; then it has `STABLE_SUMS`.

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
    if not are_equal(expected, found):
        logger.info("a lone request takes the time of %d: fewer rows change its bits", num_slots)
        return decode, False
    return stable, True


@functools.cache
def _stable_program() -> Decode | None:
    """Return `decode` with sums in an order of their own; None if XLA cannot be told so."""
    try:
        jax.jit(lambda: 0, compiler_options=STABLE_SUMS).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if not any(option in str(error) for option in STABLE_SUMS):
            raise
        logger.warning("a lone request takes the time of all slots: %s", error)
        return None
    options = STABLE_SUMS
    return jax.jit(decode_steps, static_argnums=(0, 1), donate_argnums=3, compiler_options=options)


def _draw_in_first(
    program: Decode,
    decoder: AdaptedDecoder,
    model: Gpt,
    shape: tuple[int, int],
    most_steps: int,
) -> list[np.ndarray]:
    """Return what a program draws in the first slots of a random state, and leaves in them."""
    trial = Trial(decoder, model, *shape, min(most_steps, shape[1]))
    return in_first(trial.decode(program, most_steps), FEW)
