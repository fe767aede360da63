"""`AttentionKernel`: what every way to compute attention promises.

Axes: B batch, T query time, S key time, N query heads, K key/value heads, H head.
"""

import jax

from jaxgpt.config import configclass
from jaxgpt.model.attention.masks import AttentionMask
from jaxgpt.model.attention.reference import ProbabilityDropout, Scores


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

    def workspace_bytes(
        self, num_rows: float, num_tokens: int, num_heads: float, itemsize: int
    ) -> float:
        """Estimate what a device needs only while it attends, for plans.

        Beside what the forward pass keeps for the backward pass, and half of that for gradients.

        Args:
            num_rows: of a micro-batch on the device.
            num_tokens: of each that the device has.
            num_heads: query heads, the device's share of them.
            itemsize: bytes of the compute dtype.
        """
        return 0.0
