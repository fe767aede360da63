"""Kernels: (q, k, v, mask) -> out, several ways to compute the same attention, and the choice.

All meet one contract (`kernel.py`) and are tested against the same reference. Scores
and softmax are float32 in every one; what differs is memory, speed and where they run. `Fastest`
chooses; a config that names another kernel gets exactly that one.
"""

import functools
import logging

import jax

from jaxgpt.config import configclass
from jaxgpt.model.attention.chunked_prefill import ChunkedPrefill
from jaxgpt.model.attention.cpu import CpuBlockwise
from jaxgpt.model.attention.gpu import Cudnn, Pallas
from jaxgpt.model.attention.kernel import AttentionInputs, AttentionKernel
from jaxgpt.model.attention.one_query import OneQuery
from jaxgpt.model.attention.reference import Reference, SavedProbabilities
from jaxgpt.model.attention.ring import Ring
from jaxgpt.model.attention.sharding import is_time_split
from jaxgpt.runtime.target import compile_target

logger = logging.getLogger(__name__)

# Fastest first; the reference refuses nothing.
_BY_PLATFORM: dict[str, tuple[AttentionKernel, ...]] = {
    "cpu": (CpuBlockwise(), OneQuery(), ChunkedPrefill()),
    "gpu": (Cudnn(), Pallas()),
}
_ANYWHERE = (SavedProbabilities(), Reference())


@configclass
class Fastest(AttentionKernel):
    """The fastest kernel that can compute what is asked on this machine; logs which, once."""

    def compute(self, inputs: AttentionInputs) -> jax.Array:
        kernel, reasons = choose_kernel(inputs)
        if inputs.mask.query_slots_BT is None:
            _log_choice(type(kernel).__name__, reasons)
        return kernel.compute(inputs)


def choose_kernel(inputs: AttentionInputs) -> tuple[AttentionKernel, str]:
    """Return the fastest kernel that does not refuse the inputs, and why faster ones do."""
    fast = _BY_PLATFORM.get(compile_target().platform, ())
    if is_time_split(inputs.q_BTNH):
        fast = (Ring(),)
    reasons = []
    for kernel in (*fast, *_ANYWHERE):
        reason = kernel.refuses(inputs)
        if reason is None:
            return kernel, "; ".join(reasons)
        reasons.append(f"{type(kernel).__name__} cannot: {reason}")
    raise AssertionError("the reference kernel refuses nothing")


@functools.cache
def _log_choice(name: str, reasons: str) -> None:
    logger.info("attention kernel: %s%s", name, f" ({reasons})" if reasons else "")
