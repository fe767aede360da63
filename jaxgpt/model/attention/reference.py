"""Attention on any device: the definition, and one with a hand-written gradient.

Heads stand before time in here, [B, K, G, T, H], so that each product is one plain matrix product
per head. Scores and softmax are float32.

Axes: B batch, T query time, S key time, N query heads, K key/value heads, G = N / K query heads per
key/value head, X = B * K, H head.
"""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.attention.kernel import HIDDEN, AttentionInputs, AttentionKernel, Scores
from jaxgpt.model.attention.masks import AttentionMask, visible_keys
from jaxgpt.model.layers.dtypes import accumulator_dtype


@configclass
class Reference(AttentionKernel):
    """The definition, written out and differentiated automatically: slow, refuses nothing."""

    def compute(self, inputs: AttentionInputs) -> jax.Array:
        return reference_attention(inputs)


@configclass
class SavedProbabilities(AttentionKernel):
    """Keeps the probabilities for a hand-written backward pass; runs anywhere, memory O(T S)."""

    def refuses(self, inputs: AttentionInputs) -> str | None:
        return None if inputs.dropout is None else "it has no dropout of probabilities"

    def compute(self, inputs: AttentionInputs) -> jax.Array:
        return saved_probabilities_attention(inputs)


def split_heads(x_BTNH: jax.Array, num_kv_heads: int) -> jax.Array:
    """Return x_BKGTH: heads first, query heads grouped by the key/value head that they read."""
    num_rows, num_tokens, num_heads, head_dim = x_BTNH.shape
    groups = num_heads // num_kv_heads
    x_BTKGH = x_BTNH.reshape(num_rows, num_tokens, num_kv_heads, groups, head_dim)
    return x_BTKGH.transpose(0, 2, 3, 1, 4)


def merge_heads(x_BKGTH: jax.Array) -> jax.Array:
    """Return x_BTNH; the inverse of `split_heads`."""
    num_rows, num_kv_heads, groups, num_tokens, head_dim = x_BKGTH.shape
    x_BTKGH = x_BKGTH.transpose(0, 3, 1, 2, 4)
    return x_BTKGH.reshape(num_rows, num_tokens, num_kv_heads * groups, head_dim)


def swap_time_and_heads(x: jax.Array) -> jax.Array:
    """Turn x_BSKH into x_BKSH, or back."""
    return x.transpose(0, 2, 1, 3)


@jax.named_scope("softmax")
def masked_softmax(values_BKGTS: jax.Array, visible: jax.Array) -> jax.Array:
    """Return softmax over the visible keys; zeros in a row that has none, never NaN."""
    values_BKGTS = jnp.where(visible, values_BKGTS, HIDDEN)
    largest = jax.lax.stop_gradient(jnp.max(values_BKGTS, axis=-1, keepdims=True))
    weights = jnp.where(visible, jnp.exp(values_BKGTS - largest), 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0)


def reference_attention(inputs: AttentionInputs) -> jax.Array:
    """Compute attention by its definition, differentiated automatically; out_BTNH."""
    dtype, dropout = inputs.q_BTNH.dtype, inputs.dropout
    accumulator = accumulator_dtype(dtype)
    q_BKGTH = split_heads(inputs.q_BTNH, inputs.k_BSKH.shape[2]).astype(accumulator)
    k_BKSH = swap_time_and_heads(inputs.k_BSKH).astype(accumulator)
    v_BKSH = swap_time_and_heads(inputs.v_BSKH).astype(accumulator)
    with jax.named_scope("scores"):
        products = jnp.einsum("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH)
        scores = inputs.scores(products)
    probabilities = masked_softmax(scores, spell_out(inputs.mask, products))
    if dropout is not None:
        keep = jax.random.bernoulli(dropout.key, 1 - dropout.rate, probabilities.shape)
        probabilities = jnp.where(keep, probabilities / (1 - dropout.rate), 0.0)
    out_BKGTH = jnp.einsum("BKGTS,BKSH->BKGTH", probabilities, v_BKSH)
    return merge_heads(out_BKGTH).astype(dtype)


def saved_probabilities_attention(inputs: AttentionInputs) -> jax.Array:
    """Compute attention and keep its probabilities for a hand-written backward pass; out_BTNH.

    Products take operands in the dtype of the queries and accumulate float32. Needs memory for
    B * N * T * S probabilities.
    """
    return cast(
        jax.Array,
        _attend(inputs.q_BTNH, inputs.k_BSKH, inputs.v_BSKH, inputs.mask, inputs.scores),
    )


def spell_out(mask: AttentionMask, products_BKGTS: jax.Array) -> jax.Array:
    """Return the mask as an array, broadcastable to [B, K, G, T, S]."""
    num_queries, num_keys = products_BKGTS.shape[-2:]
    visible_BTS = visible_keys(mask, slice(0, num_queries), slice(0, num_keys))
    return visible_BTS[:, None, None, :, :]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: AttentionMask, scores: Scores
) -> jax.Array:
    return _attend_forward(q_BTNH, k_BSKH, v_BSKH, mask, scores)[0]


def _attend_forward(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: AttentionMask, scores: Scores
) -> Any:
    dtype = q_BTNH.dtype
    multiply = functools.partial(jnp.einsum, preferred_element_type=accumulator_dtype(dtype))
    q_BKGTH = split_heads(q_BTNH, k_BSKH.shape[2])
    k_BKSH, v_BKSH = swap_time_and_heads(k_BSKH), swap_time_and_heads(v_BSKH)
    with jax.named_scope("scores"):
        products = multiply("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH)
        values = scores(products)
    probabilities = masked_softmax(values, spell_out(mask, products)).astype(dtype)
    out_BKGTH = multiply("BKGTS,BKSH->BKGTH", probabilities, v_BKSH).astype(dtype)
    return merge_heads(out_BKGTH), (q_BKGTH, k_BKSH, v_BKSH, probabilities, out_BKGTH)


def _attend_backward(scores: Scores, saved: Any, dout_BTNH: jax.Array) -> Any:
    """Compute the gradient of softmax attention (Dao et al. 2022, appendix B.2)."""
    q_BKGTH, k_BKSH, v_BKSH, probabilities, out_BKGTH = saved
    dtype = q_BKGTH.dtype
    accumulator = accumulator_dtype(dtype)
    multiply = functools.partial(jnp.einsum, preferred_element_type=accumulator)
    dout_BKGTH = split_heads(dout_BTNH.astype(dtype), k_BKSH.shape[1])
    dv_BKSH = multiply("BKGTS,BKGTH->BKSH", probabilities, dout_BKGTH).astype(dtype)
    dprobabilities = multiply("BKGTH,BKSH->BKGTS", dout_BKGTH, v_BKSH)
    # sum_s p_s (dout . v_s) = dout . out, without another pass over [T, S].
    shift_BKGT1 = jnp.sum(
        dout_BKGTH.astype(accumulator) * out_BKGTH.astype(accumulator), axis=-1, keepdims=True
    )
    dscores = probabilities.astype(accumulator) * (dprobabilities - shift_BKGT1)
    slope = scores.scale
    if scores.soft_cap is not None:
        slope = scores.derivative(multiply("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH))
    dproducts = (dscores * slope).astype(dtype)
    dq_BKGTH = multiply("BKGTS,BKSH->BKGTH", dproducts, k_BKSH).astype(dtype)
    dk_BKSH = multiply("BKGTS,BKGTH->BKSH", dproducts, q_BKGTH).astype(dtype)
    return merge_heads(dq_BKGTH), swap_time_and_heads(dk_BKSH), swap_time_and_heads(dv_BKSH), None


_attend.defvjp(_attend_forward, _attend_backward)
