"""`AttentionKernel`: the contract of every way to compute attention, and its inputs.

Axes: B batch, T query time, S key time, N query heads, K key/value heads, H head.
"""

from typing import Any, ClassVar, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.attention.masks import AttentionMask

# Stands for minus infinity where a difference of two of them must not be NaN.
HIDDEN = -1e30


class Scores(NamedTuple):
    """Scale and bound of the scores, which are products of queries and keys.

    Attributes:
        scale: factor of each product.
        soft_cap: `cap * tanh(score / cap)` bounds the scores; None leaves them.
    """

    scale: float
    soft_cap: float | None = None

    def __call__(self, products: jax.Array) -> jax.Array:
        """Turn products of queries and keys into scores."""
        scaled = products * self.scale
        if self.soft_cap is None:
            return scaled
        return self.soft_cap * jnp.tanh(scaled / self.soft_cap)

    def derivative(self, products: jax.Array) -> jax.Array | float:
        """Return the derivative of the scores with respect to the products, at these products."""
        if self.soft_cap is None:
            return self.scale
        tanh = jnp.tanh(products * (self.scale / self.soft_cap))
        return self.scale * (1 - tanh * tanh)


@flax.struct.dataclass
class ProbabilityDropout:
    """Dropout on attention probabilities: its rate and the key of its mask."""

    key: jax.Array
    rate: float = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class AttentionInputs:
    """Inputs of attention; shapes and dtypes suffice for checks without data.

    Attributes:
        q_BTNH: queries.
        k_BSKH: keys; query head n reads key/value head n // (N / K).
        v_BSKH: values.
        mask: keys that each query sees.
        scores: scale and bound of the products of queries and keys.
        dropout: of the probabilities; None for none.
    """

    q_BTNH: Any
    k_BSKH: Any
    v_BSKH: Any
    mask: AttentionMask
    scores: Scores = flax.struct.field(pytree_node=False)
    dropout: ProbabilityDropout | None = None


@configclass
class AttentionKernel:
    """Base of the kernels."""

    reads_cache: ClassVar[bool] = False
    """Use of the kernel with a cache as well, where a model names it; it gets keys and values as
    `KVCache.read` returns them."""

    def cache_blocks(self, max_length: int) -> tuple[int, ...]:
        """Return the lengths of the blocks of slots in which the kernel reads a cache."""
        return (max_length,)

    def attend(self, inputs: AttentionInputs) -> jax.Array:
        """Return out_BTNH in the dtype of the queries.

        A key that the mask hides has no share in the output and gets a gradient of exactly 0;
        a query that sees no key gets zeros.

        Raises:
            ValueError: the kernel cannot compute this.
        """
        if reason := self.refuses(inputs):
            raise ValueError(f"{type(self).__name__} cannot compute this attention: {reason}")
        with jax.named_scope("attention_kernel"):
            return self.compute(inputs)

    def refuses(self, inputs: AttentionInputs) -> str | None:
        """Return why the kernel cannot compute an attention, or None if it can."""
        return None

    def compute(self, inputs: AttentionInputs) -> jax.Array:
        """Return out_BTNH of an attention that `refuses` does not refuse."""
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
