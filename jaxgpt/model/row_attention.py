"""Attention row by row and block by block: what a CPU's cache wants.

A loop over the rows of the batch keeps the scores of one row in the cache, where computing all
rows at once would stream them through memory a dozen times. Within a row, blocks of queries stop
at their last visible key, which halves the work of a causal mask and bounds that of a window.
The backward pass recomputes the probabilities from the saved normaliser (Dao et al. 2022), so
memory grows with T, not with T^2. Everything inside is float32.

Axes: B batch, T query time, S key time, N query heads, K key/value heads, G = N / K query heads per
key/value head, H head.
"""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxgpt.model.attention_math import HIDDEN, Scores
from jaxgpt.model.layers import accumulator_dtype
from jaxgpt.model.masks import AttentionMask, visible_keys

_BLOCK = 128
_MAX_BLOCKS = 16


def row_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: AttentionMask,
    scores: Scores,
) -> jax.Array:
    """Return out_BTNH. Query t must stand in slot t: no `query_slots_BT`.

    The rows must not be sharded over devices: the loop would fetch each from where it lies.
    """
    assert mask.query_slots_BT is None, "queries must stand at their own index"
    return cast(jax.Array, _attend(q_BTNH, k_BSKH, v_BSKH, mask, scores))


def _blocks(num_tokens: int, window: int | None) -> list[tuple[slice, slice]]:
    """Blocks of queries, each with the range of keys that any of them can see."""
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
    def attend_row(row: Any) -> tuple[jax.Array, jax.Array]:
        q_TNH, k_SKH, v_SKH, segment_ids_T = row
        out_KGTH, normaliser_KGT1 = _forward_row(
            _split_heads(q_TNH, k_SKH.shape[1]),
            _heads_first(k_SKH),
            _heads_first(v_SKH),
            _row_mask(mask, segment_ids_T),
            scores,
        )
        return _merge_heads(out_KGTH).astype(q_TNH.dtype), normaliser_KGT1

    rows = (q_BTNH, k_BSKH, v_BSKH, mask.segment_ids_BT)
    out_BTNH, normaliser_BKGT1 = jax.lax.map(attend_row, rows)
    return out_BTNH, (*rows, mask, out_BTNH, normaliser_BKGT1)


def _attend_backward(scores: Scores, saved: Any, dout_BTNH: jax.Array) -> Any:
    *rows, mask, out_BTNH, normaliser_BKGT1 = saved

    def attend_row(row: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        q_TNH, k_SKH, v_SKH, segment_ids_T, out_TNH, dout_TNH, normaliser_KGT1 = row
        num_kv_heads = k_SKH.shape[1]
        dout_KGTH = _split_heads(dout_TNH, num_kv_heads)
        # sum_s p_s (dout . v_s) = dout . out, without another pass over [T, S].
        shift_KGT1 = jnp.sum(
            dout_KGTH * _split_heads(out_TNH, num_kv_heads), axis=-1, keepdims=True
        )
        dq_KGTH, dk_KHS, dv_KHS = _backward_row(
            _split_heads(q_TNH, num_kv_heads),
            _heads_first(k_SKH),
            _heads_first(v_SKH),
            dout_KGTH,
            (normaliser_KGT1, shift_KGT1),
            _row_mask(mask, segment_ids_T),
            scores,
        )
        return (
            _merge_heads(dq_KGTH).astype(q_TNH.dtype),
            dk_KHS.transpose(2, 0, 1).astype(k_SKH.dtype),
            dv_KHS.transpose(2, 0, 1).astype(v_SKH.dtype),
        )

    return *jax.lax.map(attend_row, (*rows, out_BTNH, dout_BTNH, normaliser_BKGT1)), None


_attend.defvjp(_attend_forward, _attend_backward)


def _forward_row(
    q_KGTH: jax.Array, k_KSH: jax.Array, v_KSH: jax.Array, mask: AttentionMask, scores: Scores
) -> tuple[jax.Array, jax.Array]:
    """Return out_KGTH and the logarithm of the softmax's denominator, [K, G, T, 1]."""
    # A product is fastest where the contracted axis is last on the left and first on the right.
    k_KHS = k_KSH.transpose(0, 2, 1)
    outs, normalisers = [], []
    for queries, keys in _blocks(q_KGTH.shape[2], mask.window):
        products = jnp.einsum("KGTH,KHS->KGTS", q_KGTH[:, :, queries], k_KHS[:, :, keys])
        visible = visible_keys(mask, queries, keys)
        values = jnp.where(visible, scores(products), HIDDEN)
        largest = jnp.max(values, axis=-1, keepdims=True)
        weights = jnp.where(visible, jnp.exp(values - largest), 0.0)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        total = jnp.where(total > 0, total, 1.0)
        outs.append(jnp.einsum("KGTS,KSH->KGTH", weights, v_KSH[:, keys]) / total)
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
    """Return dq_KGTH, dk_KHS, dv_KHS (Dao et al. 2022, appendix B.2)."""
    normaliser_KGT1, shift_KGT1 = normaliser_and_shift
    k_KHS, v_KHS = k_KSH.transpose(0, 2, 1), v_KSH.transpose(0, 2, 1)
    q_KHGT, dout_KHGT = q_KGTH.transpose(0, 3, 1, 2), dout_KGTH.transpose(0, 3, 1, 2)
    dqs = []
    dk_KHS, dv_KHS = jnp.zeros_like(k_KHS), jnp.zeros_like(v_KHS)
    for queries, keys in _blocks(q_KGTH.shape[2], mask.window):
        products = jnp.einsum("KGTH,KHS->KGTS", q_KGTH[:, :, queries], k_KHS[:, :, keys])
        exponents = scores(products) - normaliser_KGT1[:, :, queries]
        probabilities = jnp.where(visible_keys(mask, queries, keys), jnp.exp(exponents), 0.0)
        dprobabilities = jnp.einsum("KGTH,KHS->KGTS", dout_KGTH[:, :, queries], v_KHS[:, :, keys])
        dscores = probabilities * (dprobabilities - shift_KGT1[:, :, queries])
        dproducts = dscores * scores.derivative(products)
        dqs.append(jnp.einsum("KGTS,KSH->KGTH", dproducts, k_KSH[:, keys]))
        dk_KHS = dk_KHS.at[:, :, keys].add(
            jnp.einsum("KHGT,KGTS->KHS", q_KHGT[..., queries], dproducts)
        )
        dv_KHS = dv_KHS.at[:, :, keys].add(
            jnp.einsum("KHGT,KGTS->KHS", dout_KHGT[..., queries], probabilities)
        )
    return jnp.concatenate(dqs, axis=2), dk_KHS, dv_KHS


def _row_mask(mask: AttentionMask, segment_ids_T: jax.Array | None) -> AttentionMask:
    """The mask of one row, as of a batch of one."""
    segment_ids_1T = None if segment_ids_T is None else segment_ids_T[None]
    return AttentionMask(segment_ids_BT=segment_ids_1T, window=mask.window)


def _split_heads(x_TNH: jax.Array, num_kv_heads: int) -> jax.Array:
    """Return x_KGTH in the type of sums."""
    num_tokens, num_heads, head_dim = x_TNH.shape
    x_TKGH = x_TNH.reshape(num_tokens, num_kv_heads, num_heads // num_kv_heads, head_dim)
    return x_TKGH.transpose(1, 2, 0, 3).astype(accumulator_dtype(x_TNH.dtype))


def _merge_heads(x_KGTH: jax.Array) -> jax.Array:
    """Return x_TNH; the inverse of `_split_heads`."""
    num_kv_heads, groups, num_tokens, head_dim = x_KGTH.shape
    return x_KGTH.transpose(2, 0, 1, 3).reshape(num_tokens, num_kv_heads * groups, head_dim)


def _heads_first(x_SKH: jax.Array) -> jax.Array:
    """Return x_KSH in the type of sums."""
    return x_SKH.transpose(1, 0, 2).astype(accumulator_dtype(x_SKH.dtype))
