"""The program that verifies drafted tokens, and what it does to the bits of an answer.

Axes: B slots, K drafted tokens.
"""

import functools
import logging

import jax
import numpy as np

from jaxgpt.inference.engine.slots.adapters import AdaptedDecoder
from jaxgpt.inference.engine.slots.few_slots import FEW, STABLE_SUMS
from jaxgpt.inference.engine.slots.trial import Decode, Trial, Verify, are_equal, in_first
from jaxgpt.inference.engine.slots.verify import verify_drafts
from jaxgpt.model.gpt import Gpt

logger = logging.getLogger(__name__)

_SAME = "with the bits of decoding: answers are those without drafts"
_OTHER = (
    "with other last bits than decoding has, so every token is drawn that way; an answer can "
    "differ from the one without drafts where two tokens are equally good up to rounding"
)


def choose_verification(
    decoder: AdaptedDecoder,
    model: Gpt,
    shape: tuple[int, int],
    decode: tuple[Decode, bool, int],
    most_drafts: int,
) -> tuple[Verify, bool]:
    """Return a program as `verify_drafts`, and whether its bits are those of decoding.

    It is tried on a random state, in all slots and, if they may lie apart, in few. Both have more
    rows than a step of decoding, and a draw that depends on the last bits may come out otherwise.
    Logs what was found.

    Args:
        decoder: has the parameters.
        model: decodes with them.
        shape: B, and the tokens that a slot holds.
        decode: the program that decodes, whether it may draw in few slots, and the most steps that
            it takes.
        most_drafts: K.
    """
    plain, has_few, most_steps = decode
    program, num_tokens = _verification(has_few), most_drafts + 1
    if num_tokens >= shape[1]:
        # No room for a trial.
        return program, False
    result = Trial(decoder, model, *shape, num_tokens).decode(plain, most_steps)
    num_first, tokens_TB = min(FEW, shape[0]), np.asarray(result[1].tokens_B)
    expected = in_first(result, num_first)
    # One state at a time, for the memory's sake.
    del result
    same = True
    for num_slots in dict.fromkeys((shape[0], FEW if has_few else shape[0])):
        trial = Trial(decoder, model, num_slots, shape[1], num_tokens)
        found = in_first(trial.verify(program, tokens_TB[:, :num_slots]), num_first)
        same &= are_equal(expected, found)
    logger.info("drafted tokens are verified %s", _SAME if same else _OTHER)
    return program, same


@functools.cache
def _verification(has_stable_sums: bool) -> Verify:
    options = STABLE_SUMS if has_stable_sums else None
    return jax.jit(verify_drafts, static_argnums=0, donate_argnums=2, compiler_options=options)
