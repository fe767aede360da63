"""Ring attention: rows whose tokens lie on several devices (Liu et al. 2023, arXiv:2310.01889).

Each device keeps its queries; keys and values travel around a ring of the devices that share a
row, one hop at a time, while each device folds what passes into a running softmax. No device ever
holds a whole row's keys, and the result is that of attention over the whole row. In the backward
pass keys and values travel again and their gradients with them, home after a full round.

Axes: B batch, T query time, S key time, N query heads, K key/value heads, G = N / K query heads per
key/value head, H head; inside `shard_map` all are a device's own share.
"""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.attention.kernel import HIDDEN, AttentionInputs, AttentionKernel
from jaxgpt.model.attention.reference import (
    merge_heads,
    split_heads,
    swap_time_and_heads,
)
from jaxgpt.model.attention.ring_exchange import (
    Passing,
    RingSettings,
    normaliser_spec,
    on_shards,
    over_pieces,
    piece_size,
    ring_size,
    send,
    time_spec,
)
from jaxgpt.model.attention.sharding import placed_alike
from jaxgpt.model.layers.dtypes import accumulator_dtype


class _Softmax(NamedTuple):
    """A softmax over the keys seen so far: its weighted values, their sum, the largest score."""

    sum_BKGTH: jax.Array
    total_BKGT1: jax.Array
    largest_BKGT1: jax.Array


@configclass
class Ring(AttentionKernel):
    """Keys and values travel between the devices that share a row: memory O(T / devices)."""

    def refuses(self, inputs: AttentionInputs) -> str | None:
        if inputs.dropout is not None:
            return "it has no dropout of probabilities"
        if inputs.mask.query_slots_BT is not None:
            return "queries stand in the slots of a cache"
        return None

    def compute(self, inputs: AttentionInputs) -> jax.Array:
        return ring_attention(inputs)

    def workspace_bytes(
        self, num_rows: float, num_tokens: int, num_heads: float, itemsize: int
    ) -> float:
        """Estimate the bytes of arrays of a piece's scores, in the backward pass.

        Three in float32: products, probabilities, their gradient. Or, where that is more, while
        they are multiplied: one in float32, and two in the compute dtype, each also transposed.
        """
        scores = num_rows * num_heads * num_tokens * piece_size(num_tokens)
        return scores * max(3 * 4, 4 + 4 * itemsize)


def ring_attention(inputs: AttentionInputs) -> jax.Array:
    """Return out_BTNH. Query t must stand in slot t: no `query_slots_BT`."""
    assert inputs.mask.query_slots_BT is None, "queries must stand at their own index"
    q_BTNH, k_BSKH, v_BSKH = inputs.q_BTNH, inputs.k_BSKH, inputs.v_BSKH
    segments_BT = inputs.mask.segment_ids_BT
    if segments_BT is None:
        segments_BT = jnp.ones(q_BTNH.shape[:2], jnp.int32)
    k_BSKH, v_BSKH, spec_BTNH, spec_BSKH = placed_alike(q_BTNH, k_BSKH, v_BSKH)
    settings = RingSettings(inputs.scores, inputs.mask.window, spec_BTNH, spec_BSKH)
    return cast(jax.Array, _attend(q_BTNH, k_BSKH, v_BSKH, segments_BT, settings))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    segments_BT: jax.Array,
    settings: RingSettings,
) -> jax.Array:
    return _attend_forward(q_BTNH, k_BSKH, v_BSKH, segments_BT, settings)[0]


def _attend_forward(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    segments_BT: jax.Array,
    settings: RingSettings,
) -> Any:
    inputs = (q_BTNH, k_BSKH, v_BSKH, segments_BT)
    spec, spec_T = settings.spec_BTNH, time_spec(settings.spec_BTNH)
    run = on_shards(
        functools.partial(_forward_shard, settings),
        settings,
        (spec, settings.spec_BSKH, settings.spec_BSKH, spec_T),
        (spec, normaliser_spec(spec)),
    )
    out_BTNH, normaliser_BKGT1 = run(*inputs)
    return out_BTNH, (*inputs, out_BTNH, normaliser_BKGT1)


def _attend_backward(settings: RingSettings, saved: Any, dout_BTNH: jax.Array) -> Any:
    spec, spec_k = settings.spec_BTNH, settings.spec_BSKH
    run = on_shards(
        functools.partial(_backward_shard, settings),
        settings,
        (spec, spec_k, spec_k, time_spec(spec), spec, normaliser_spec(spec), spec),
        (spec, spec_k, spec_k),
    )
    return *run(*saved, dout_BTNH), None


_attend.defvjp(_attend_forward, _attend_backward)


def _forward_shard(
    settings: RingSettings,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    segments_BT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return this device's out_BTNH and the logarithm of its softmax's denominator."""
    q_BKGTH = split_heads(q_BTNH, k_BSKH.shape[2])
    dtype = accumulator_dtype(q_BTNH.dtype)
    multiply = functools.partial(jnp.einsum, preferred_element_type=dtype)
    zeros_BKGT1 = jnp.zeros((*q_BKGTH.shape[:4], 1), dtype)

    def fold(seen: _Softmax, piece: Passing, visible: jax.Array, _: Any) -> tuple[_Softmax, Any]:
        products = multiply("BKGTH,BKSH->BKGTS", q_BKGTH, piece.k_BKSH)
        values = jnp.where(visible, settings.scores(products), HIDDEN)
        largest = jnp.maximum(seen.largest_BKGT1, jnp.max(values, axis=-1, keepdims=True))
        weights = jnp.where(visible, jnp.exp(values - largest), 0.0)
        shrink = jnp.exp(seen.largest_BKGT1 - largest)
        mixed = multiply("BKGTS,BKSH->BKGTH", weights.astype(q_BTNH.dtype), piece.v_BKSH)
        total = seen.total_BKGT1 * shrink + jnp.sum(weights, axis=-1, keepdims=True)
        return _Softmax(seen.sum_BKGTH * shrink + mixed, total, largest), ()

    def visit(seen: _Softmax, passing: Passing, hop: jax.Array | int) -> _Softmax:
        return over_pieces(fold, settings, segments_BT, hop, seen, passing, ())[0]

    def next_hop(carry: Any, hop: jax.Array) -> Any:
        seen, passing = carry
        return (visit(seen, passing, hop), send(settings, passing)), None

    seen = _Softmax(jnp.zeros(q_BKGTH.shape, dtype), zeros_BKGT1, zeros_BKGT1 + HIDDEN)
    last = ring_size(settings) - 1
    passing = Passing(swap_time_and_heads(k_BSKH), swap_time_and_heads(v_BSKH), segments_BT)
    (seen, passing), _ = jax.lax.scan(next_hop, (seen, passing), jnp.arange(last))
    seen = visit(seen, passing, last)
    total = jnp.where(seen.total_BKGT1 > 0, seen.total_BKGT1, 1.0)
    out_BTNH = merge_heads(seen.sum_BKGTH / total).astype(q_BTNH.dtype)
    return out_BTNH, seen.largest_BKGT1 + jnp.log(total)


def _backward_shard(
    settings: RingSettings,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    segments_BT: jax.Array,
    out_BTNH: jax.Array,
    normaliser_BKGT1: jax.Array,
    dout_BTNH: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return this device's dq_BTNH, dk_BSKH, dv_BSKH (Dao et al. 2022, appendix B.2)."""
    dtype, accumulator = q_BTNH.dtype, accumulator_dtype(q_BTNH.dtype)
    multiply = functools.partial(jnp.einsum, preferred_element_type=accumulator)
    q_BKGTH, out_BKGTH, dout_BKGTH = (
        split_heads(x, k_BSKH.shape[2]) for x in (q_BTNH, out_BTNH, dout_BTNH.astype(dtype))
    )
    # sum_s p_s (dout . v_s) = dout . out, without another pass over [T, S].
    shift_BKGT1 = jnp.sum(
        dout_BKGTH.astype(accumulator) * out_BKGTH.astype(accumulator), axis=-1, keepdims=True
    )

    def fold(dq_BKGTH: jax.Array, piece: Passing, visible: jax.Array, grads: Any) -> Any:
        products = multiply("BKGTH,BKSH->BKGTS", q_BKGTH, piece.k_BKSH)
        exponents = settings.scores(products) - normaliser_BKGT1
        probabilities = jnp.where(visible, jnp.exp(exponents), 0.0)
        dprobabilities = multiply("BKGTH,BKSH->BKGTS", dout_BKGTH, piece.v_BKSH)
        dscores = probabilities * (dprobabilities - shift_BKGT1)
        dproducts = (dscores * settings.scores.derivative(products)).astype(dtype)
        dk_BKSH = multiply("BKGTS,BKGTH->BKSH", dproducts, q_BKGTH)
        dv_BKSH = multiply("BKGTS,BKGTH->BKSH", probabilities.astype(dtype), dout_BKGTH)
        dq_BKGTH += multiply("BKGTS,BKSH->BKGTH", dproducts, piece.k_BKSH)
        return dq_BKGTH, (grads[0] + dk_BKSH, grads[1] + dv_BKSH)

    def visit(dq_BKGTH: jax.Array, passing: Passing, grads: Any, hop: jax.Array | int) -> Any:
        return over_pieces(fold, settings, segments_BT, hop, dq_BKGTH, passing, grads)

    def next_hop(carry: Any, hop: jax.Array) -> Any:
        dq_BKGTH, passing, grads = carry
        dq_BKGTH, grads = visit(dq_BKGTH, passing, grads, hop)
        return (dq_BKGTH, send(settings, passing), send(settings, grads)), None

    last = ring_size(settings) - 1
    passing = Passing(swap_time_and_heads(k_BSKH), swap_time_and_heads(v_BSKH), segments_BT)
    zeros = jnp.zeros(passing.k_BKSH.shape, accumulator)
    carry = (jnp.zeros(q_BKGTH.shape, accumulator), passing, (zeros, zeros))
    carry, _ = jax.lax.scan(next_hop, carry, jnp.arange(last))
    dq_BKGTH, grads = visit(*carry, last)
    dk_BKSH, dv_BKSH = send(settings, grads)
    return (
        merge_heads(dq_BKGTH).astype(dtype),
        swap_time_and_heads(dk_BKSH).astype(k_BSKH.dtype),
        swap_time_and_heads(dv_BKSH).astype(v_BSKH.dtype),
    )
