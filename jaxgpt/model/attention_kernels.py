"""Kernels: (q, k, v, mask) -> out, several ways to compute the same attention.

All meet one contract, `AttentionKernel.attend`, and are tested against the same reference. Scores
and softmax are float32 in every one; what differs is memory, speed and where they run. `Fastest`
chooses; a config that names another kernel gets exactly that one.

Axes: B batch, T query time, S key time, N query heads, K key/value heads, H head.
"""

import functools
import logging
import re

import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.attention_math import (
    ProbabilityDropout,
    Scores,
    reference_attention,
    saved_probabilities_attention,
)
from jaxgpt.model.masks import AttentionMask
from jaxgpt.model.ring_attention import is_time_split, ring_attention
from jaxgpt.model.row_attention import row_attention

logger = logging.getLogger(__name__)


@configclass
class AttentionKernel:
    """Base of the kernels."""

    def attend(
        self,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        mask: AttentionMask,
        scores: Scores,
        dropout: ProbabilityDropout | None = None,
    ) -> jax.Array:
        """Return out_BTNH in the dtype of the queries.

        A key that the mask hides has no share in the output and gets a gradient of exactly 0;
        a query that sees no key gets zeros. Query head n reads key/value head n // (N / K).

        Raises:
            ValueError: the kernel cannot compute this.
        """
        if reason := self.refuses(q_BTNH, mask, scores, dropout):
            raise ValueError(f"{type(self).__name__} cannot compute this attention: {reason}")
        return self.compute(q_BTNH, k_BSKH, v_BSKH, mask, scores, dropout)

    def refuses(
        self,
        q_BTNH: jax.Array,
        mask: AttentionMask,
        scores: Scores,
        dropout: ProbabilityDropout | None,
    ) -> str | None:
        """Return why the kernel cannot compute an attention, or None if it can."""
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
        """Compute what `refuses` does not refuse; see `attend`."""
        raise NotImplementedError(f"{type(self).__name__} has no compute")


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
class RowByRow(AttentionKernel):
    """Keeps one row's scores in the processor's cache: the fast kernel of one CPU."""

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
        mesh = jax.sharding.get_abstract_mesh()
        if not mesh.empty and mesh.size > 1:
            return f"rows may lie on different ones of the {mesh.size} devices"
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
        return row_attention(q_BTNH, k_BSKH, v_BSKH, mask, scores)


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


@configclass
class Cudnn(AttentionKernel):
    """cuDNN's flash attention, on NVIDIA GPUs from compute capability 8.0 on."""

    def refuses(
        self,
        q_BTNH: jax.Array,
        mask: AttentionMask,
        scores: Scores,
        dropout: ProbabilityDropout | None,
    ) -> str | None:
        """See `AttentionKernel.refuses`."""
        return self.refuses_on(_compute_capability(), q_BTNH, mask, scores, dropout)

    def refuses_on(
        self,
        capability: float,
        q_BTNH: jax.Array | jax.ShapeDtypeStruct,
        mask: AttentionMask,
        scores: Scores,
        dropout: ProbabilityDropout | None,
    ) -> str | None:
        """`refuses`, on a GPU of that compute capability, present or not."""
        head_dim = q_BTNH.shape[-1]
        largest_head = 256 if capability >= 9.0 else 128
        reasons = {
            "there is no NVIDIA GPU of compute capability 8.0 or above": capability < 8.0,
            f"queries are {q_BTNH.dtype}, not bfloat16": q_BTNH.dtype != jnp.bfloat16,
            # Its mask argument would become a dense [T, S] bias with a gradient of its own.
            "rows are packed: it knows no segments": mask.segment_ids_BT is not None,
            "queries stand in the slots of a cache": mask.query_slots_BT is not None,
            "the tokens of a row lie on several devices": is_time_split(q_BTNH),
            "scores are soft-capped": scores.soft_cap is not None,
            "it has no dropout of probabilities here": dropout is not None,
            f"head_dim {head_dim} is no multiple of 8 up to {largest_head}": (
                head_dim % 8 != 0 or head_dim > largest_head
            ),
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

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
        return jax.nn.dot_product_attention(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            scale=scores.scale,
            is_causal=True,
            # Keys to the left, the query itself not counted.
            local_window_size=None if mask.window is None else (mask.window - 1, 0),
            implementation="cudnn",
        )


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
        kernel, reasons = choose_kernel(jax.default_backend(), q_BTNH, mask, scores, dropout)
        if mask.query_slots_BT is None:
            _log_choice(type(kernel).__name__, reasons)
        return kernel.compute(q_BTNH, k_BSKH, v_BSKH, mask, scores, dropout)


def choose_kernel(
    backend: str,
    q_BTNH: jax.Array,
    mask: AttentionMask,
    scores: Scores,
    dropout: ProbabilityDropout | None,
) -> tuple[AttentionKernel, str]:
    """Return the fastest kernel that refuses nothing of this, and why faster ones do.

    Args:
        backend: "cpu", "gpu" or "tpu".
        q_BTNH: queries, or anything with their shape and dtype.
        mask: as for `AttentionKernel.attend`, like the rest.
        scores: see there.
        dropout: see there.
    """
    fast = {"cpu": (RowByRow(),), "gpu": (Cudnn(),)}.get(backend, ())
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


def _compute_capability() -> float:
    """Compute capability of the first NVIDIA GPU, such as 9.0; 0 without one."""
    device = jax.local_devices()[0]
    # Other makers' devices have none, or a name like gfx90a.
    capability = str(getattr(device, "compute_capability", ""))
    return float(capability) if re.fullmatch(r"\d+(\.\d+)?", capability) else 0.0
