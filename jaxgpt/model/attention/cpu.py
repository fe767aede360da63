"""Attention on CPUs in training: a few rows at a time, block by block.

A loop over the rows of the batch bounds the memory of the scores: long rows are computed one by
one, short ones together, since small products leave the processor's threads waiting. Within a row,
blocks of queries stop at their last visible key, which halves the work of a causal mask and bounds
that of a window. The backward pass recomputes the probabilities from the saved normaliser (Dao et
al. 2022), so memory grows with T, not with T^2. Scores, softmax and sums are float32; products take
operands in the dtype of the queries. Rows come and go as bits (see `model/cpu/bf16_bits.py`).

Axes: B batch, T query time, S key time, N query heads, K key/value heads, G = N / K query heads per
key/value head, H head.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from jaxgpt.config import configclass
from jaxgpt.model.attention.kernel import HIDDEN, AttentionInputs, AttentionKernel, Scores
from jaxgpt.model.attention.masks import AttentionMask, visible_keys
from jaxgpt.model.attention.sharding import attend_on_shards, is_time_split
from jaxgpt.model.cpu.bf16_bits import from_uint16, to_uint16
from jaxgpt.model.layers.dtypes import accumulator_dtype
from jaxgpt.model.layers.placement import is_in_stage

_BLOCK = 128
_MAX_BLOCKS = 16
# Rows are computed together up to this size of their scores, as if all of them were kept.
_MOST_SCORE_BYTES = 32 << 20


@configclass
class CpuBlockwise(AttentionKernel):
    """A few rows at a time, and no scores that all queries of a block hide: fast on CPUs."""

    def refuses(self, inputs: AttentionInputs) -> str | None:
        if inputs.dropout is not None:
            return "it has no dropout of probabilities"
        if inputs.mask.query_slots_BT is not None:
            return "queries stand in the slots of a cache"
        if is_time_split(inputs.q_BTNH):
            return "the tokens of a row lie on several devices"
        if is_in_stage():
            return "it does not work inside a pipeline's stages"
        return None

    def compute(self, inputs: AttentionInputs) -> jax.Array:
        def attend(
            q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, segments_BT: jax.Array | None
        ) -> jax.Array:
            own = AttentionMask(segment_ids_BT=segments_BT, window=inputs.mask.window)
            return row_attention(q_BTNH, k_BSKH, v_BSKH, own, inputs.scores)

        segments_BT = inputs.mask.segment_ids_BT
        return attend_on_shards(attend, inputs.q_BTNH, inputs.k_BSKH, inputs.v_BSKH, segments_BT)


def row_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: AttentionMask,
    scores: Scores,
) -> jax.Array:
    """Return out_BTNH. Query t must stand in slot t: no `query_slots_BT`.

    The rows must lie on one device: `sharding.py` calls this with each device's own.
    """
    assert mask.query_slots_BT is None, "queries must stand at their own index"
    return cast(jax.Array, _attend(q_BTNH, k_BSKH, v_BSKH, mask, scores))


def _blocks(num_tokens: int, window: int | None) -> list[tuple[slice, slice]]:
    """Return blocks of queries, each with the range of keys that any of them can see."""
    block = max(_BLOCK, -(-num_tokens // _MAX_BLOCKS))
    blocks = []
    for start in range(0, num_tokens, block):
        stop = min(start + block, num_tokens)
        first_key = 0 if window is None else max(0, start - window + 1)
        blocks.append((slice(start, stop), slice(first_key, stop)))
    return blocks


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: AttentionMask, scores: Scores
) -> jax.Array:
    return _attend_forward(q_BTNH, k_BSKH, v_BSKH, mask, scores)[0]


def _attend_forward(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: AttentionMask, scores: Scores
) -> Any:
    dtype, num_kv_heads = q_BTNH.dtype, k_BSKH.shape[2]

    def attend_row(row: Any) -> tuple[jax.Array, jax.Array]:
        q_TNH, k_SKH, v_SKH, segment_ids_T = row
        out_KGTH, normaliser_KGT1 = _forward_row(
            _split_heads(q_TNH, num_kv_heads, dtype),
            _heads_first(k_SKH, dtype),
            _heads_first(v_SKH, dtype),
            _row_mask(mask, segment_ids_T),
            scores,
        )
        return _merge_heads(out_KGTH), normaliser_KGT1

    rows = (*map(to_uint16, (q_BTNH, k_BSKH, v_BSKH)), mask.segment_ids_BT)
    out_BTNH, normaliser_BKGT1 = _map_rows(attend_row, rows)
    return from_uint16(out_BTNH, dtype), (*rows, mask, out_BTNH, normaliser_BKGT1)


def _attend_backward(scores: Scores, saved: Any, dout_BTNH: jax.Array) -> Any:
    *rows, mask, out_BTNH, normaliser_BKGT1 = saved
    dtype, num_kv_heads = dout_BTNH.dtype, rows[1].shape[2]
    accumulator = accumulator_dtype(dtype)

    def attend_row(row: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        q_TNH, k_SKH, v_SKH, segment_ids_T, out_TNH, dout_TNH, normaliser_KGT1 = row
        out_KGTH = _split_heads(out_TNH, num_kv_heads, dtype)
        dout_KGTH = _split_heads(dout_TNH, num_kv_heads, dtype)
        # sum_s p_s (dout . v_s) = dout . out, without another pass over [T, S].
        shift_KGT1 = jnp.sum(
            dout_KGTH.astype(accumulator) * out_KGTH.astype(accumulator), axis=-1, keepdims=True
        )
        dq_KGTH, dk_KSH, dv_KSH = _backward_row(
            _split_heads(q_TNH, num_kv_heads, dtype),
            _heads_first(k_SKH, dtype),
            _heads_first(v_SKH, dtype),
            dout_KGTH,
            (normaliser_KGT1, shift_KGT1),
            _row_mask(mask, segment_ids_T),
            scores,
        )
        return _merge_heads(dq_KGTH), _heads_last(dk_KSH), _heads_last(dv_KSH)

    gradients = _map_rows(attend_row, (*rows, out_BTNH, to_uint16(dout_BTNH), normaliser_BKGT1))
    return *(from_uint16(gradient, dtype) for gradient in gradients), None


_attend.defvjp(_attend_forward, _attend_backward)


def _map_rows(attend_row: Callable[[Any], Any], rows: tuple[Any, ...]) -> Any:
    """Return what a function gives for each row, as many at a time as `_MOST_SCORE_BYTES` allows.

    Args:
        attend_row: takes what `rows` has of one row.
        rows: q_BTNH, k_BSKH and more.
    """
    num_rows, num_queries, num_heads, _ = rows[0].shape
    score_bytes = 4 * num_heads * num_queries * rows[1].shape[1]
    most = _MOST_SCORE_BYTES // max(1, score_bytes)
    # A divisor: the program for a rest would be compiled as well.
    sizes = (size for size in range(1, num_rows + 1) if num_rows % size == 0 and size <= most)
    together = max(sizes, default=1)
    return lax.map(attend_row, rows, batch_size=together)


def _forward_row(
    q_KGTH: jax.Array, k_KSH: jax.Array, v_KSH: jax.Array, mask: AttentionMask, scores: Scores
) -> tuple[jax.Array, jax.Array]:
    """Return out_KGTH and the logarithm of the softmax's denominator, [K, G, T, 1]."""
    dtype = q_KGTH.dtype
    multiply = functools.partial(jnp.einsum, preferred_element_type=accumulator_dtype(dtype))
    # A product is fastest where the contracted axis is last on the left and first on the right.
    k_KHS = k_KSH.transpose(0, 2, 1)
    outs, normalisers = [], []
    for queries, keys in _blocks(q_KGTH.shape[2], mask.window):
        products = multiply("KGTH,KHS->KGTS", q_KGTH[:, :, queries], k_KHS[:, :, keys])
        visible = visible_keys(mask, queries, keys)
        values = jnp.where(visible, scores(products), HIDDEN)
        largest = jnp.max(values, axis=-1, keepdims=True)
        weights = jnp.where(visible, jnp.exp(values - largest), 0.0)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        total = jnp.where(total > 0, total, 1.0)
        out_KGTH = multiply("KGTS,KSH->KGTH", weights.astype(dtype), v_KSH[:, keys]) / total
        outs.append(out_KGTH.astype(dtype))
        normalisers.append(largest + jnp.log(total))
    return jnp.concatenate(outs, axis=2), jnp.concatenate(normalisers, axis=2)


def _backward_row(
    q_KGTH: jax.Array,
    k_KSH: jax.Array,
    v_KSH: jax.Array,
    dout_KGTH: jax.Array,
    normaliser_and_shift: tuple[jax.Array, jax.Array],
    mask: AttentionMask,
    scores: Scores,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return dq_KGTH, dk_KSH, dv_KSH (Dao et al. 2022, appendix B.2)."""
    dtype, accumulator = q_KGTH.dtype, accumulator_dtype(q_KGTH.dtype)
    multiply = functools.partial(jnp.einsum, preferred_element_type=accumulator)
    normaliser_KGT1, shift_KGT1 = normaliser_and_shift
    k_KHS, v_KHS = k_KSH.transpose(0, 2, 1), v_KSH.transpose(0, 2, 1)
    q_KHGT, dout_KHGT = q_KGTH.transpose(0, 3, 1, 2), dout_KGTH.transpose(0, 3, 1, 2)
    dqs = []
    dk_KHS, dv_KHS = jnp.zeros(k_KHS.shape, accumulator), jnp.zeros(v_KHS.shape, accumulator)
    for queries, keys in _blocks(q_KGTH.shape[2], mask.window):
        products = multiply("KGTH,KHS->KGTS", q_KGTH[:, :, queries], k_KHS[:, :, keys])
        exponents = scores(products) - normaliser_KGT1[:, :, queries]
        probabilities = jnp.where(visible_keys(mask, queries, keys), jnp.exp(exponents), 0.0)
        dprobabilities = multiply("KGTH,KHS->KGTS", dout_KGTH[:, :, queries], v_KHS[:, :, keys])
        dscores = probabilities * (dprobabilities - shift_KGT1[:, :, queries])
        dproducts = (dscores * scores.derivative(products)).astype(dtype)
        dqs.append(multiply("KGTS,KSH->KGTH", dproducts, k_KSH[:, keys]).astype(dtype))
        dk_KHS = _add_at(keys, dk_KHS, multiply("KHGT,KGTS->KHS", q_KHGT[..., queries], dproducts))
        dv_KHS = _add_at(
            keys,
            dv_KHS,
            multiply("KHGT,KGTS->KHS", dout_KHGT[..., queries], probabilities.astype(dtype)),
        )
    dk_KSH, dv_KSH = (x_KHS.astype(dtype).transpose(0, 2, 1) for x_KHS in (dk_KHS, dv_KHS))
    return jnp.concatenate(dqs, axis=2), dk_KSH, dv_KSH


def _add_at(keys: slice, sums_KHS: jax.Array, x_KHS: jax.Array) -> jax.Array:
    # Of all keys, `.at[].add` is a scatter at an empty array of places, which makes jaxlib 0.11's
    # partitioner (Shardy) end the process inside of a `shard_map`.
    if x_KHS.shape == sums_KHS.shape:
        return sums_KHS + x_KHS
    return sums_KHS.at[:, :, keys].add(x_KHS)


def _row_mask(mask: AttentionMask, segment_ids_T: jax.Array | None) -> AttentionMask:
    """Return the mask of one row, as of a batch of one."""
    segment_ids_1T = None if segment_ids_T is None else segment_ids_T[None]
    return AttentionMask(segment_ids_BT=segment_ids_1T, window=mask.window)


def _split_heads(x_TNH: jax.Array, num_kv_heads: int, dtype: Any) -> jax.Array:
    """Return x_KGTH in `dtype` of the bits of a row."""
    num_tokens, num_heads, head_dim = x_TNH.shape
    x_TKGH = x_TNH.reshape(num_tokens, num_kv_heads, num_heads // num_kv_heads, head_dim)
    return from_uint16(x_TKGH.transpose(1, 2, 0, 3), dtype)


def _merge_heads(x_KGTH: jax.Array) -> jax.Array:
    """Return the bits of x_TNH; the inverse of `_split_heads`."""
    num_kv_heads, groups, num_tokens, head_dim = x_KGTH.shape
    x_TKGH = to_uint16(x_KGTH).transpose(2, 0, 1, 3)
    return x_TKGH.reshape(num_tokens, num_kv_heads * groups, head_dim)


def _heads_first(x_SKH: jax.Array, dtype: Any) -> jax.Array:
    """Return x_KSH in `dtype` of the bits of a row."""
    return from_uint16(x_SKH.transpose(1, 0, 2), dtype)


def _heads_last(x_KSH: jax.Array) -> jax.Array:
    """Return the bits of x_SKH; the inverse of `_heads_first`."""
    return to_uint16(x_KSH).transpose(1, 0, 2)
