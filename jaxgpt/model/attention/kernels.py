"""Kernels: (q, k, v, mask) -> out, several ways to compute the same attention.

All meet one contract (`kernel.py`) and are tested against the same reference. Scores
and softmax are float32 in every one; what differs is memory, speed and where they run. `Fastest`
chooses; a config that names another kernel gets exactly that one.

Axes: B batch, T query time, S key time, N query heads, K key/value heads, H head.
"""

import functools
import logging
from typing import Any

import jax

from jaxgpt.config import configclass
from jaxgpt.model.attention.cpu import row_attention
from jaxgpt.model.attention.gpu import Cudnn, Pallas
from jaxgpt.model.attention.kernel import AttentionKernel
from jaxgpt.model.attention.masks import AttentionMask
from jaxgpt.model.attention.reference import (
    ProbabilityDropout,
    Scores,
    one_query_attention,
    reference_attention,
    saved_probabilities_attention,
)
from jaxgpt.model.attention.ring import is_time_split, ring_attention
from jaxgpt.model.attention.ring_exchange import piece_size
from jaxgpt.model.attention.sharding import attend_on_shards
from jaxgpt.model.layers.placement import placement
from jaxgpt.runtime.target import compile_target

logger = logging.getLogger(__name__)


@configclass
class Reference(AttentionKernel):
    """The definition, written out and differentiated automatically: slow, refuses nothing."""

    def compute(
        self,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        mask: AttentionMask,
        scores: Scores,
        dropout: ProbabilityDropout | None,
    ) -> jax.Array:
        """See `AttentionKernel.compute`."""
        return reference_attention(q_BTNH, k_BSKH, v_BSKH, mask, scores, dropout)


@configclass
class SavedProbabilities(AttentionKernel):
    """Keeps the probabilities for a hand-written backward pass; runs anywhere, memory O(T S)."""

    def refuses(
        self,
        q_BTNH: jax.Array,
        mask: AttentionMask,
        scores: Scores,
        dropout: ProbabilityDropout | None,
    ) -> str | None:
        """See `AttentionKernel.refuses`."""
        return None if dropout is None else "it has no dropout of probabilities"

    def compute(
        self,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        mask: AttentionMask,
        scores: Scores,
        dropout: ProbabilityDropout | None,
    ) -> jax.Array:
        """See `AttentionKernel.compute`."""
        return saved_probabilities_attention(q_BTNH, k_BSKH, v_BSKH, mask, scores)


@configclass
class OneQuery(AttentionKernel):
    """One query a row, as decoding has them: reads a cache as it lies; the fast one of CPUs."""

    def refuses(
        self,
        q_BTNH: jax.Array,
        mask: AttentionMask,
        scores: Scores,
        dropout: ProbabilityDropout | None,
    ) -> str | None:
        """See `AttentionKernel.refuses`."""
        if dropout is not None:
            return "it has no dropout of probabilities"
        if mask.query_slots_BT is None or q_BTNH.shape[1] != 1:
            return "there is more than one query a row, or no cache"
        spec = placement(q_BTNH.shape, ("batch", "time", "heads", "head_dim"))
        if spec is not None and any(spec[2:]):
            return "heads lie on several devices"
        return None

    def compute(
        self,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        mask: AttentionMask,
        scores: Scores,
        dropout: ProbabilityDropout | None,
    ) -> jax.Array:
        """See `AttentionKernel.compute`."""
        return one_query_attention(q_BTNH, k_BSKH, v_BSKH, mask, scores)


@configclass
class CpuBlockwise(AttentionKernel):
    """Keeps one row's scores in the processor's cache: the fast kernel of CPUs."""

    def refuses(
        self,
        q_BTNH: jax.Array,
        mask: AttentionMask,
        scores: Scores,
        dropout: ProbabilityDropout | None,
    ) -> str | None:
        """See `AttentionKernel.refuses`."""
        if dropout is not None:
            return "it has no dropout of probabilities"
        if mask.query_slots_BT is not None:
            return "queries stand in the slots of a cache"
        if is_time_split(q_BTNH):
            return "the tokens of a row lie on several devices"
        if jax.sharding.get_abstract_mesh().manual_axes:
            return "it does not work inside a pipeline's stages"
        return None

    def compute(
        self,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        mask: AttentionMask,
        scores: Scores,
        dropout: ProbabilityDropout | None,
    ) -> jax.Array:
        """See `AttentionKernel.compute`."""

        def attend(
            q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, segments_BT: jax.Array | None
        ) -> jax.Array:
            own = AttentionMask(segment_ids_BT=segments_BT, window=mask.window)
            return row_attention(q_BTNH, k_BSKH, v_BSKH, own, scores)

        return attend_on_shards(attend, q_BTNH, k_BSKH, v_BSKH, mask.segment_ids_BT)


@configclass
class Ring(AttentionKernel):
    """Keys and values travel between the devices that share a row: memory O(T / devices)."""

    def refuses(
        self,
        q_BTNH: jax.Array,
        mask: AttentionMask,
        scores: Scores,
        dropout: ProbabilityDropout | None,
    ) -> str | None:
        """See `AttentionKernel.refuses`."""
        if dropout is not None:
            return "it has no dropout of probabilities"
        if mask.query_slots_BT is not None:
            return "queries stand in the slots of a cache"
        return None

    def compute(
        self,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        mask: AttentionMask,
        scores: Scores,
        dropout: ProbabilityDropout | None,
    ) -> jax.Array:
        """See `AttentionKernel.compute`."""
        return ring_attention(q_BTNH, k_BSKH, v_BSKH, mask, scores)

    def workspace_bytes(
        self, num_rows: float, num_tokens: int, num_heads: float, itemsize: int
    ) -> float:
        """See `AttentionKernel.workspace_bytes`: arrays of a piece's scores, in the backward pass.

        Three in float32: products, probabilities, their gradient. Or, where that is more, while
        they are multiplied: one in float32, and two in the compute dtype, each also transposed.
        """
        scores = num_rows * num_heads * num_tokens * piece_size(num_tokens)
        return scores * max(3 * 4, 4 + 4 * itemsize)


@configclass
class Fastest(AttentionKernel):
    """The fastest kernel that can compute what is asked on this machine; logs which, once."""

    def compute(
        self,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        mask: AttentionMask,
        scores: Scores,
        dropout: ProbabilityDropout | None,
    ) -> jax.Array:
        """See `AttentionKernel.compute`."""
        kernel, reasons = choose_kernel(q_BTNH, mask, scores, dropout)
        if mask.query_slots_BT is None:
            _log_choice(type(kernel).__name__, reasons)
        return kernel.compute(q_BTNH, k_BSKH, v_BSKH, mask, scores, dropout)


def choose_kernel(
    q_BTNH: Any,
    mask: AttentionMask,
    scores: Scores,
    dropout: ProbabilityDropout | None,
) -> tuple[AttentionKernel, str]:
    """Return the fastest kernel that refuses nothing of this on the target, and why others do.

    Args:
        q_BTNH: queries, or anything with their shape and dtype.
        mask: as for `AttentionKernel.attend`, like the rest.
        scores: see there.
        dropout: see there.
    """
    fast = {"cpu": (CpuBlockwise(), OneQuery()), "gpu": (Cudnn(), Pallas())}.get(
        compile_target().platform, ()
    )
    if is_time_split(q_BTNH):
        fast = (Ring(),)
    reasons = []
    for kernel in (*fast, SavedProbabilities(), Reference()):
        reason = kernel.refuses(q_BTNH, mask, scores, dropout)
        if reason is None:
            return kernel, "; ".join(reasons)
        reasons.append(f"{type(kernel).__name__} cannot: {reason}")
    raise AssertionError("the reference kernel refuses nothing")


@functools.cache
def _log_choice(name: str, reasons: str) -> None:
    logger.info("attention kernel: %s%s", name, f" ({reasons})" if reasons else "")
