"""Attention of one new token a row to a cache, block by block, up to the longest row.

A cache has room for the longest text that a row may become, and most rows are shorter. The number
of blocks is counted while the program runs. A block that a row does not reach changes nothing in
it, bit for bit: its weights are zero and its largest score is not larger. So what a row gets does
not depend on how long the others are, which a program for each length could not promise.

Softmax over blocks: Milakov and Gimelshein 2018 (arXiv:1805.02867), as in Dao et al. 2022. Axes:
B rows, K key/value heads, G query heads per key/value head, S slots, C slots of a block, H head,
X = B * K.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.attention.cpu import OneQuery
from jaxgpt.model.attention.kernel import HIDDEN, AttentionInputs
from jaxgpt.model.layers.dtypes import accumulator_dtype


@configclass
class CachedBlocks(OneQuery):
    """One query per row to a cache, up to the longest row's length; for rows of a shared cache."""

    reads_cache: ClassVar[bool] = True

    block: int = 128
    """Number of slots that are read at once."""

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"block must be at least 1, not {self.block}")

    def compute(self, inputs: AttentionInputs) -> jax.Array:
        num_rows, num_slots, num_kv_heads, head_dim = inputs.k_BSKH.shape
        block = min(self.block, num_slots)
        groups = inputs.q_BTNH.shape[2] // num_kv_heads
        dtype = accumulator_dtype(inputs.q_BTNH.dtype)
        kept = jax.tree.map(lambda leaf: leaf.swapaxes(1, 2), (inputs.k_BSKH, inputs.v_BSKH))
        q_XGH = inputs.q_BTNH.reshape(-1, groups, head_dim)
        assert inputs.mask.query_slots_BT is not None
        slots_B = inputs.mask.query_slots_BT[:, 0]
        shape_BKG = (num_rows, num_kv_heads, groups)

        def read(
            number: jax.Array, sums: tuple[jax.Array, jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            largest_BKG, total_BKG, out_XGH = sums
            # The last block ends with the cache, and leaves out what the one before it has read.
            start = jnp.minimum(number * block, num_slots - block)
            # A block of a cache in 8 bits is restored here, so that the whole one never is.
            k_XCH, v_XCH = (
                part.astype(inputs.q_BTNH.dtype).reshape(-1, block, head_dim)
                for part in jax.tree.map(
                    lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, block, axis=2), kept
                )
            )
            products_XCG = jax.lax.dot_general(
                k_XCH, q_XGH, (((2,), (2,)), ((0,), (0,))), preferred_element_type=dtype
            )
            scores_BKGC = inputs.scores(products_XCG.swapaxes(1, 2).reshape(*shape_BKG, block))
            places_C = start + jnp.arange(block)
            visible_BC = (places_C <= slots_B[:, None]) & (places_C >= number * block)
            if inputs.mask.window is not None:
                visible_BC &= slots_B[:, None] - places_C < inputs.mask.window
            visible_B11C = visible_BC[:, None, None]
            scores_BKGC = jnp.where(visible_B11C, scores_BKGC, HIDDEN)
            new_BKG = jnp.maximum(largest_BKG, jnp.max(scores_BKGC, axis=-1))
            weights_BKGC = jnp.where(visible_B11C, jnp.exp(scores_BKGC - new_BKG[..., None]), 0.0)
            kept_BKG = jnp.exp(largest_BKG - new_BKG)
            added_XGH = jax.lax.dot_general(
                weights_BKGC.astype(inputs.q_BTNH.dtype).reshape(-1, groups, block),
                v_XCH,
                (((2,), (1,)), ((0,), (0,))),
                preferred_element_type=dtype,
            )
            return (
                new_BKG,
                total_BKG * kept_BKG + jnp.sum(weights_BKGC, axis=-1),
                out_XGH * kept_BKG.reshape(-1, groups, 1) + added_XGH,
            )

        num_blocks = (jnp.max(slots_B) + block) // block
        nothing = (
            jnp.full(shape_BKG, HIDDEN, dtype),
            jnp.zeros(shape_BKG, dtype),
            jnp.zeros(q_XGH.shape, dtype),
        )
        _, total_BKG, out_XGH = jax.lax.fori_loop(0, num_blocks, read, nothing)
        total_XG1 = jnp.where(total_BKG > 0, total_BKG, 1.0).reshape(-1, groups, 1)
        return (out_XGH / total_XG1).reshape(inputs.q_BTNH.shape).astype(inputs.q_BTNH.dtype)
