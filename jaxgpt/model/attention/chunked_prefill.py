"""Attention of a part of a prompt to a cache on a CPU, up to the last key that is visible.

A cache has room for the longest text that a row may become. Keys behind the last query are hidden
from all of them, and masking them away takes as long as attending to them. How many are visible is
known while the program runs: there is a branch for each quarter of the cache. Which one it is
depends on the last query of all rows, and changes no more than the order of sums.

Axes: B batch, T query time, S key time, K key/value heads, G query heads per key/value
head, H head, X = B * K, R = G * T.
"""

import functools

import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.attention.kernel import HIDDEN, AttentionInputs, AttentionKernel
from jaxgpt.model.attention.masks import visible_keys
from jaxgpt.model.attention.one_query import heads_on_several_devices
from jaxgpt.model.attention.reference import swap_time_and_heads
from jaxgpt.model.layers.dtypes import accumulator_dtype

# More would take longer to compile than they save; fewer keys are hardly faster.
_MOST_BRANCHES = 4
_FEWEST_KEYS = 128


@configclass
class ChunkedPrefill(AttentionKernel):
    """Several queries a row against a cache: reads keys up to the last query; for CPUs."""

    def refuses(self, inputs: AttentionInputs) -> str | None:
        if inputs.dropout is not None:
            return "it has no dropout of probabilities"
        if inputs.mask.query_slots_BT is None:
            return "there is no cache"
        if inputs.mask.segment_ids_BT is not None:
            return "it knows no segments"
        return heads_on_several_devices(inputs)

    def compute(self, inputs: AttentionInputs) -> jax.Array:
        num_keys = inputs.k_BSKH.shape[1]
        step = max(_FEWEST_KEYS, -(-num_keys // _MOST_BRANCHES))
        stops = [*range(step, num_keys, step), num_keys]
        branches = [functools.partial(_attend, stop) for stop in stops]
        assert inputs.mask.query_slots_BT is not None
        last = jnp.max(inputs.mask.query_slots_BT)
        return jax.lax.switch(last // step, branches, inputs)


def _attend(num_keys: int, inputs: AttentionInputs) -> jax.Array:
    """Return out_BTNH of queries that see none but the first keys."""
    q_BTNH, (num_kv_heads, head_dim) = inputs.q_BTNH, inputs.k_BSKH.shape[2:]
    num_rows, num_queries, num_heads = q_BTNH.shape[:3]
    groups = num_heads // num_kv_heads
    multiply = functools.partial(
        jax.lax.dot_general, preferred_element_type=accumulator_dtype(q_BTNH.dtype)
    )
    k_XSH, v_XSH = (
        swap_time_and_heads(x)[:, :, :num_keys].reshape(-1, num_keys, head_dim)
        for x in (inputs.k_BSKH, inputs.v_BSKH)
    )
    q_BTKGH = q_BTNH.reshape(num_rows, num_queries, num_kv_heads, groups, head_dim)
    q_XRH = q_BTKGH.transpose(0, 2, 3, 1, 4).reshape(-1, groups * num_queries, head_dim)
    scores_XRS = inputs.scores(multiply(q_XRH, k_XSH, (((2,), (2,)), ((0,), (0,)))))
    scores_BKGTS = scores_XRS.reshape(num_rows, num_kv_heads, groups, num_queries, num_keys)
    visible_BTS = visible_keys(inputs.mask, slice(0, num_queries), slice(0, num_keys))
    visible_B11TS = visible_BTS[:, None, None]
    scores_BKGTS = jnp.where(visible_B11TS, scores_BKGTS, HIDDEN)
    largest_BKGT1 = jnp.max(scores_BKGTS, axis=-1, keepdims=True)
    weights_BKGTS = jnp.where(visible_B11TS, jnp.exp(scores_BKGTS - largest_BKGT1), 0.0)
    total_BKGT1 = jnp.sum(weights_BKGTS, axis=-1, keepdims=True)
    weights_XRS = weights_BKGTS.reshape(scores_XRS.shape).astype(q_BTNH.dtype)
    out_XRH = multiply(weights_XRS, v_XSH, (((2,), (1,)), ((0,), (0,))))
    out_BKGTH = out_XRH.reshape(num_rows, num_kv_heads, groups, num_queries, head_dim)
    # Divided behind the product, which has fewer numbers. A query that sees nothing gets zeros.
    out_BKGTH = out_BKGTH / jnp.where(total_BKGT1 > 0, total_BKGT1, 1.0)
    out_BTKGH = out_BKGTH.transpose(0, 3, 1, 2, 4)
    return out_BTKGH.reshape(q_BTNH.shape).astype(q_BTNH.dtype)
