"""Attention of one new token a row to a cache, block by block, up to the longest row.

A cache has room for the longest text that a row may become, and most rows are shorter. Which blocks
are read is decided while the program runs. A block that a row does not reach changes nothing in
it, bit for bit: its weights are zero and its largest score is not larger. So what a row gets does
not depend on how long the others are, which a program for each length could not promise.

Each block is an array of its own in the cache: what a loop cuts out of one array, XLA's CPU backend
copies first, which takes three times as long as the products.

Softmax over blocks: Milakov and Gimelshein 2018 (arXiv:1805.02867), as in Dao et al. 2022. Axes:
B rows, K key/value heads, G query heads per key/value head, S slots, C slots of a block, H head,
X = B * K.
"""

import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.attention.cpu import OneQuery
from jaxgpt.model.attention.kernel import HIDDEN, AttentionInputs
from jaxgpt.model.layers.dtypes import accumulator_dtype


class _Sums(NamedTuple):
    """Softmax over the blocks so far: the largest score, the sum of weights, the weighted sum."""

    largest_BKG: jax.Array
    total_BKG: jax.Array
    out_XGH: jax.Array


@configclass
class CachedBlocks(OneQuery):
    """One query per row to a cache, up to the longest row's length; for rows of a shared cache."""

    reads_cache: ClassVar[bool] = True

    block: int = 128
    """Number of slots that are read at once."""

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"block must be at least 1, not {self.block}")

    def cache_blocks(self, max_length: int) -> tuple[int, ...]:
        starts = range(0, max_length, self.block)
        return tuple(min(self.block, max_length - start) for start in starts)

    def compute(self, inputs: AttentionInputs) -> jax.Array:
        num_rows, num_slots, num_kv_heads, head_dim = inputs.k_BSKH.shape
        groups = inputs.q_BTNH.shape[2] // num_kv_heads
        dtype = accumulator_dtype(inputs.q_BTNH.dtype)
        kept = jax.tree.map(lambda leaf: leaf.swapaxes(1, 2), (inputs.k_BSKH, inputs.v_BSKH))
        sums = _Sums(
            jnp.full((num_rows, num_kv_heads, groups), HIDDEN, dtype),
            jnp.zeros((num_rows, num_kv_heads, groups), dtype),
            jnp.zeros((num_rows * num_kv_heads, groups, head_dim), dtype),
        )
        assert inputs.mask.query_slots_BT is not None
        last = jnp.max(inputs.mask.query_slots_BT)
        start = 0
        for length in self.cache_blocks(num_slots):
            # Cut from the cache as it lies, and outside of the branch: there the compiler sees that
            # the pieces of what was just joined are the blocks.
            places = slice(start, start + length)
            sums = jax.lax.cond(
                start <= last,
                functools.partial(_add_block, inputs, start),
                lambda sums, *_: sums,
                sums,
                *jax.tree.map(lambda leaf, places=places: leaf[:, :, places], kept),
            )
            start += length
        total_BKG = jnp.where(sums.total_BKG > 0, sums.total_BKG, 1.0)
        out_XGH = sums.out_XGH / total_BKG.reshape(-1, groups, 1)
        return out_XGH.reshape(inputs.q_BTNH.shape).astype(inputs.q_BTNH.dtype)


def _add_block(inputs: AttentionInputs, start: int, sums: _Sums, k_BKCH: Any, v_BKCH: Any) -> _Sums:
    """Return the sums with the keys and values of one block, whose first slot is `start`."""
    (num_rows, num_kv_heads, groups), dtype = sums.total_BKG.shape, sums.total_BKG.dtype
    num_slots, head_dim = k_BKCH.shape[2:]
    # A block of a cache in 8 bits is restored here, so that the whole one never is.
    k_XCH, v_XCH = (
        kept_BKCH.astype(inputs.q_BTNH.dtype).reshape(-1, num_slots, head_dim)
        for kept_BKCH in (k_BKCH, v_BKCH)
    )
    q_XGH = inputs.q_BTNH.reshape(-1, groups, head_dim)
    products_XCG = jax.lax.dot_general(
        k_XCH, q_XGH, (((2,), (2,)), ((0,), (0,))), preferred_element_type=dtype
    )
    products_BKGC = products_XCG.swapaxes(1, 2).reshape(num_rows, num_kv_heads, groups, num_slots)
    slots_B1 = inputs.mask.query_slots_BT
    assert slots_B1 is not None
    places_C = start + jnp.arange(num_slots)
    visible_BC = places_C <= slots_B1
    if inputs.mask.window is not None:
        visible_BC &= slots_B1 - places_C < inputs.mask.window
    visible_B11C = visible_BC[:, None, None]
    scores_BKGC = jnp.where(visible_B11C, inputs.scores(products_BKGC), HIDDEN)
    largest_BKG = jnp.maximum(sums.largest_BKG, jnp.max(scores_BKGC, axis=-1))
    weights_BKGC = jnp.exp(scores_BKGC - largest_BKG[..., None])
    weights_BKGC = jnp.where(visible_B11C, weights_BKGC, 0.0)
    kept_BKG = jnp.exp(sums.largest_BKG - largest_BKG)
    added_XGH = jax.lax.dot_general(
        weights_BKGC.astype(inputs.q_BTNH.dtype).reshape(-1, groups, num_slots),
        v_XCH,
        (((2,), (1,)), ((0,), (0,))),
        preferred_element_type=dtype,
    )
    return _Sums(
        largest_BKG,
        sums.total_BKG * kept_BKG + jnp.sum(weights_BKGC, axis=-1),
        sums.out_XGH * kept_BKG.reshape(-1, groups, 1) + added_XGH,
    )
