"""Attention of new tokens to a cache, block by block, up to the longest row.

A cache has room for the longest text that a row may become, and most rows are shorter. Which blocks
are read is decided while the program runs. A block that a row does not reach changes nothing in
it, bit for bit: its weights are zero and its largest score is not larger. So what a row gets does
not depend on how long the others are, which a program for each length could not promise.

Each block is an array of its own in the cache: what a loop cuts out of one array, XLA's CPU backend
copies first, which takes three times as long as the products.

Several tokens of a row are several queries, one after the other in each block, so that each gets
what it gets alone.

Softmax over blocks: Milakov and Gimelshein 2018 (arXiv:1805.02867), as in Dao et al. 2022. Axes:
B rows, T queries of each, K key/value heads, G query heads per key/value head, S slots, C slots of
a block, H head, X = B * K.
"""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.attention.kernel import HIDDEN, AttentionInputs
from jaxgpt.model.attention.one_query import OneQuery
from jaxgpt.model.layers.dtypes import accumulator_dtype


class _Sums(NamedTuple):
    """Softmax over the blocks so far: the largest score, the sum of weights, the weighted sum."""

    largest_TBKG: jax.Array
    total_TBKG: jax.Array
    out_TXGH: jax.Array


@configclass
class CachedBlocks(OneQuery):
    """Few queries per row to a cache, up to the longest row; for rows of a shared cache."""

    reads_cache: ClassVar[bool] = True

    block: int = 128
    """Number of slots that are read at once."""

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"block must be at least 1, not {self.block}")

    def cache_blocks(self, max_length: int) -> tuple[int, ...]:
        starts = range(0, max_length, self.block)
        return tuple(min(self.block, max_length - start) for start in starts)

    def refuses(self, inputs: AttentionInputs) -> str | None:
        one = dataclasses.replace(inputs, q_BTNH=inputs.q_BTNH[:, :1])
        return super().refuses(one)

    def compute(self, inputs: AttentionInputs) -> jax.Array:
        num_rows, num_slots, num_kv_heads, head_dim = inputs.k_BSKH.shape
        num_tokens, groups = inputs.q_BTNH.shape[1], inputs.q_BTNH.shape[2] // num_kv_heads
        dtype = accumulator_dtype(inputs.q_BTNH.dtype)
        kept = jax.tree.map(lambda leaf: leaf.swapaxes(1, 2), (inputs.k_BSKH, inputs.v_BSKH))
        sums = _Sums(
            jnp.full((num_tokens, num_rows, num_kv_heads, groups), HIDDEN, dtype),
            jnp.zeros((num_tokens, num_rows, num_kv_heads, groups), dtype),
            jnp.zeros((num_tokens, num_rows * num_kv_heads, groups, head_dim), dtype),
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
        total_TBKG = jnp.where(sums.total_TBKG > 0, sums.total_TBKG, 1.0)
        out_TXGH = sums.out_TXGH / total_TBKG.reshape(num_tokens, -1, groups, 1)
        out_TBNH = out_TXGH.reshape(num_tokens, num_rows, -1, head_dim)
        return out_TBNH.swapaxes(0, 1).astype(inputs.q_BTNH.dtype)


def _add_block(inputs: AttentionInputs, start: int, sums: _Sums, k_BKCH: Any, v_BKCH: Any) -> _Sums:
    """Return the sums with the keys and values of one block, whose first slot is `start`."""
    num_slots, head_dim = k_BKCH.shape[2:]
    num_tokens, groups = sums.total_TBKG.shape[0], sums.total_TBKG.shape[3]
    # A block of a cache in 8 bits is restored here, so that the whole one never is.
    k_XCH, v_XCH = (
        kept_BKCH.astype(inputs.q_BTNH.dtype).reshape(-1, num_slots, head_dim)
        for kept_BKCH in (k_BKCH, v_BKCH)
    )
    q_TXGH = inputs.q_BTNH.swapaxes(0, 1).reshape(num_tokens, -1, groups, head_dim)
    assert inputs.mask.query_slots_BT is not None
    slots_TB = inputs.mask.query_slots_BT.T
    add = functools.partial(_add_to_one, inputs, start, k_XCH, v_XCH)
    if num_tokens > 1:
        return _Sums(*jax.lax.map(lambda each: add(*each), (*sums, q_TXGH, slots_TB)))
    added = add(*(each[0] for each in (*sums, q_TXGH, slots_TB)))
    return _Sums(*(each[None] for each in added))


def _add_to_one(
    inputs: AttentionInputs,
    start: int,
    k_XCH: jax.Array,
    v_XCH: jax.Array,
    largest_BKG: jax.Array,
    total_BKG: jax.Array,
    out_XGH: jax.Array,
    q_XGH: jax.Array,
    slots_B: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the sums of one query a row with a block."""
    (num_rows, num_kv_heads, groups), dtype = total_BKG.shape, total_BKG.dtype
    num_slots = k_XCH.shape[1]
    products_XCG = jax.lax.dot_general(
        k_XCH, q_XGH, (((2,), (2,)), ((0,), (0,))), preferred_element_type=dtype
    )
    products_BKGC = products_XCG.swapaxes(1, 2).reshape(num_rows, num_kv_heads, groups, num_slots)
    slots_B1 = slots_B[:, None]
    places_C = start + jnp.arange(num_slots)
    visible_BC = places_C <= slots_B1
    if inputs.mask.window is not None:
        visible_BC &= slots_B1 - places_C < inputs.mask.window
    visible_B11C = visible_BC[:, None, None]
    scores_BKGC = jnp.where(visible_B11C, inputs.scores(products_BKGC), HIDDEN)
    new_largest_BKG = jnp.maximum(largest_BKG, jnp.max(scores_BKGC, axis=-1))
    weights_BKGC = jnp.exp(scores_BKGC - new_largest_BKG[..., None])
    weights_BKGC = jnp.where(visible_B11C, weights_BKGC, 0.0)
    kept_BKG = jnp.exp(largest_BKG - new_largest_BKG)
    added_XGH = jax.lax.dot_general(
        weights_BKGC.astype(inputs.q_BTNH.dtype).reshape(-1, groups, num_slots),
        v_XCH,
        (((2,), (1,)), ((0,), (0,))),
        preferred_element_type=dtype,
    )
    return (
        new_largest_BKG,
        total_BKG * kept_BKG + jnp.sum(weights_BKGC, axis=-1),
        out_XGH * kept_BKG.reshape(-1, groups, 1) + added_XGH,
    )
