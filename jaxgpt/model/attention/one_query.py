"""Attention of one query per row to a cache on CPUs, as in decoding.

Axes: B batch, T query time (1), S key time, N query heads, K key/value heads, G = N / K query heads
per key/value head, H head, X = B * K.
"""

import jax

from jaxgpt.config import configclass
from jaxgpt.model.attention.kernel import AttentionInputs, AttentionKernel
from jaxgpt.model.attention.reference import masked_softmax, spell_out, swap_time_and_heads
from jaxgpt.model.layers.dtypes import accumulator_dtype
from jaxgpt.model.layers.placement import placement


@configclass
class OneQuery(AttentionKernel):
    """One query per row, as in decoding: reads the cache in its stored layout; fastest on CPUs."""

    def refuses(self, inputs: AttentionInputs) -> str | None:
        if inputs.dropout is not None:
            return "it has no dropout of probabilities"
        if inputs.mask.query_slots_BT is None or inputs.q_BTNH.shape[1] != 1:
            return "there is more than one query a row, or no cache"
        return heads_on_several_devices(inputs)

    def compute(self, inputs: AttentionInputs) -> jax.Array:
        return one_query_attention(inputs)


def heads_on_several_devices(inputs: AttentionInputs) -> str | None:
    """Return that a kernel which joins rows and heads cannot compute this, or None if it can."""
    spec = placement(inputs.q_BTNH.shape, ("batch", "time", "heads", "head_dim"))
    return "heads lie on several devices" if spec is not None and any(spec[2:]) else None


def one_query_attention(inputs: AttentionInputs) -> jax.Array:
    """Return out_BTNH of one query per row, T = 1; there is no gradient.

    Keys stand on the left of their product and batch axes are one, so that XLA's CPU backend reads
    keys and values as they lie: otherwise it transposes all keys first.
    """
    q_BTNH, k_BSKH, v_BSKH = inputs.q_BTNH, inputs.k_BSKH, inputs.v_BSKH
    num_rows, num_keys, num_kv_heads, head_dim = k_BSKH.shape
    groups = q_BTNH.shape[2] // num_kv_heads
    accumulator = accumulator_dtype(q_BTNH.dtype)
    k_XSH, v_XSH = (
        swap_time_and_heads(kept).reshape(-1, num_keys, head_dim) for kept in (k_BSKH, v_BSKH)
    )
    q_XGH = q_BTNH.reshape(-1, groups, head_dim)
    products_XSG = jax.lax.dot_general(
        k_XSH, q_XGH, (((2,), (2,)), ((0,), (0,))), preferred_element_type=accumulator
    )
    products = products_XSG.swapaxes(1, 2).reshape(num_rows, num_kv_heads, groups, 1, num_keys)
    probabilities = masked_softmax(inputs.scores(products), spell_out(inputs.mask, products))
    out_XGH = jax.lax.dot_general(
        probabilities.astype(q_BTNH.dtype).reshape(-1, groups, num_keys),
        v_XSH,
        (((2,), (1,)), ((0,), (0,))),
        preferred_element_type=accumulator,
    )
    return out_XGH.reshape(q_BTNH.shape).astype(q_BTNH.dtype)
