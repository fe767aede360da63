"""A cache in 8 bits, with a scale for each token and head; and attention to keys rounded like that.

A token's key is rounded once, when it is written, and its scale depends on that key alone: what a
row reads depends neither on the other rows nor on the portions in which its tokens came.

Axes: B batch, T new tokens, K key/value heads, S slots, H head.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.attention.kernel import AttentionInputs, AttentionKernel
from jaxgpt.model.attention.kernels import Fastest
from jaxgpt.model.attention.kv_cache import (
    KVCache,
    Layers,
    empty_cache,
    join_blocks,
    put_in_slots,
)
from jaxgpt.model.layers.int8 import round_to_int8


class Int8Heads(flax.struct.PyTreeNode):
    """Keys or values in 8 bits, in place of their array; `astype` restores it.

    Attributes:
        codes_BSKH: int8.
        scales_BSK: float32.
        dtype: type that the array has where nothing else is asked for.
    """

    codes_BSKH: jax.Array
    scales_BSK: jax.Array
    dtype: str = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array that it stands for."""
        return self.codes_BSKH.shape

    def astype(self, dtype: Any) -> jax.Array:
        """Return the numbers as an array with the axes that the codes have at present."""
        restored = self.codes_BSKH.astype(jnp.float32) * self.scales_BSK[..., None]
        return restored.astype(dtype)


@flax.struct.dataclass
class Int8Cache(KVCache):
    """Keys and values by layer, row and slot, in 8 bits; see `KVCache`.

    Attributes:
        k_scales_BKC: float32, scales of the keys of each layer.
        v_scales_BKC: those of the values.
        dtype: type that `read` gives keys and values.
    """

    k_scales_BKC: Layers
    v_scales_BKC: Layers
    dtype: str = flax.struct.field(pytree_node=False)

    def write(
        self, layer: int, k_BTKH: jax.Array, v_BTKH: jax.Array, slots_BT: jax.Array
    ) -> "Int8Cache":
        """Round one layer's new keys and values, and return a cache with them in their slots."""
        k_codes_BTKH, k_scales_BTK = round_to_int8(k_BTKH, (3,))
        v_codes_BTKH, v_scales_BTK = round_to_int8(v_BTKH, (3,))
        return dataclasses.replace(
            self,
            k_BKCH=put_in_slots(self.k_BKCH, layer, k_codes_BTKH, slots_BT),
            v_BKCH=put_in_slots(self.v_BKCH, layer, v_codes_BTKH, slots_BT),
            k_scales_BKC=put_in_slots(self.k_scales_BKC, layer, k_scales_BTK, slots_BT),
            v_scales_BKC=put_in_slots(self.v_scales_BKC, layer, v_scales_BTK, slots_BT),
        )

    def read(self, layer: int) -> tuple[Int8Heads, Int8Heads]:
        """Return k_BSKH and v_BSKH of one layer, every slot, as they are kept."""
        k_BSKH, v_BSKH = super().read(layer)
        return (
            Int8Heads(k_BSKH, join_blocks(self.k_scales_BKC[layer]), self.dtype),
            Int8Heads(v_BSKH, join_blocks(self.v_scales_BKC[layer]), self.dtype),
        )


def empty_int8_cache(
    num_layers: int,
    batch_size: int,
    block_lengths: tuple[int, ...],
    num_kv_heads: int,
    head_dim: int,
    dtype: str,
) -> Int8Cache:
    """Return a cache in 8 bits whose keys and values are read as `dtype`; see `empty_cache`."""
    shape = num_layers, batch_size, block_lengths, num_kv_heads
    codes, scales = empty_cache(*shape, head_dim, "int8"), empty_cache(*shape, 1, "float32")
    return Int8Cache(
        k_BKCH=codes.k_BKCH,
        v_BKCH=codes.v_BKCH,
        lengths_B=codes.lengths_B,
        k_scales_BKC=jax.tree.map(lambda scales_BKC1: scales_BKC1[..., 0], scales.k_BKCH),
        v_scales_BKC=jax.tree.map(lambda scales_BKC1: scales_BKC1[..., 0], scales.v_BKCH),
        dtype=dtype,
    )


@configclass
class AsFromInt8Cache(AttentionKernel):
    """Attention to keys and values rounded as an `Int8Cache` rounds them, without a cache."""

    kernel: AttentionKernel = Fastest()
    """Attention algorithm for the rounded keys and values."""

    def refuses(self, inputs: AttentionInputs) -> str | None:
        return self.kernel.refuses(inputs)

    def compute(self, inputs: AttentionInputs) -> jax.Array:
        k_BSKH, v_BSKH = (
            Int8Heads(*round_to_int8(x_BSKH, (3,)), x_BSKH.dtype.name).astype(x_BSKH.dtype)
            for x_BSKH in (inputs.k_BSKH, inputs.v_BSKH)
        )
        return self.kernel.compute(dataclasses.replace(inputs, k_BSKH=k_BSKH, v_BSKH=v_BSKH))
