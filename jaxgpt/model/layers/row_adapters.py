"""Trained adapters of a decoder: each row of a batch has its own, and reads the kernels with all.

    y[b] = x[b] W + (x[b] A[b]) B[b]            B has the factor s of its adapter

A row whose adapter leaves the projection alone has the result of the kernel alone, to the last bit.
Nothing here is trained.

Axes: B batch, T time, I inputs and O outputs of a projection, R largest rank of an adapter.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgpt.model.layers.adapters import LORA_A, LORA_B, Adapter, Site
from jaxgpt.model.layers.dtypes import accumulator_dtype
from jaxgpt.model.layers.low_rank import RANK_AXIS
from jaxgpt.model.layers.matmul import Kernel

# Bool, whether the adapter of a row changes a projection.
IS_CHANGED = "is_changed"


@dataclass(frozen=True, kw_only=True)
class RowAdapters(Adapter):
    """One low-rank change of each adapted kernel for each row.

    Attributes:
        num_rows: B.
        rank: R.
        targets: names of the projections that any adapter changes.
        token_ids: ids whose rows of the embedding, and of an untied head, any adapter changes.
    """

    num_rows: int
    rank: int
    targets: tuple[str, ...]
    token_ids: tuple[int, ...]

    @property
    def changed_ids(self) -> tuple[int, ...]:
        return self.token_ids

    @property
    def leading_shape(self) -> tuple[int, ...]:
        return (self.num_rows,)

    def is_trainable(self, path: tuple[str, ...]) -> bool:
        return False

    def multiply(self, x: jax.Array, kernel: Kernel, site: Site) -> jax.Array:
        y = site.multiply(x, kernel)
        if site.name not in self.targets:
            return y
        zeros, rows = nn.initializers.zeros, self.leading_shape
        shapes = (*rows, *site.inputs, self.rank), (*rows, self.rank, *site.outputs)
        axes = (None, *site.input_axes, RANK_AXIS), (None, RANK_AXIS, *site.output_axes)
        a = site.add_param(LORA_A, zeros, shapes[0], axes[0])
        b = site.add_param(LORA_B, zeros, shapes[1], axes[1])
        is_changed_B = site.add_param(IS_CHANGED, zeros, rows, (None,))
        is_changed = is_changed_B.reshape(-1, *[1] * (y.ndim - 1))
        return jnp.where(is_changed, y + multiply_rows(x, a, b).astype(y.dtype), y)


def multiply_rows(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Return (x A) B with matrices of each row [B, T, O...], in float32 or wider.

    Args:
        x: [B, T, I...].
        a: [B, I..., R].
        b: [B, R, O...].
    """
    num_rows, num_tokens = x.shape[:2]
    dtype = accumulator_dtype(x.dtype)
    x_BTI = x.reshape(num_rows, num_tokens, -1)
    a_BIR = a.reshape(num_rows, -1, a.shape[-1]).astype(x.dtype)
    b_BRO = b.reshape(num_rows, b.shape[1], -1).astype(x.dtype)
    h_BTR = jnp.einsum("bti,bir->btr", x_BTI, a_BIR, preferred_element_type=dtype)
    h_BTR = h_BTR.astype(x.dtype)
    y_BTO = jnp.einsum("btr,bro->bto", h_BTR, b_BRO, preferred_element_type=dtype)
    return y_BTO.reshape(num_rows, num_tokens, *b.shape[2:])
