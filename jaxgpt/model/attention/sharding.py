"""Attention of one device, on every device's own rows and heads.

The compiler cannot split a loop over rows, or a kernel's program, over devices. Rows and heads
have nothing to do with each other, so each device attends to its own and nothing is sent.

Axes: B batch, T query time, S key time, N query heads, K key/value heads, H head.
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxgpt.model.layers.placement import placement

Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]


def is_time_split(q_BTNH: Any) -> bool:
    """Return whether the rules in force split the tokens of these rows over devices."""
    spec = placement(q_BTNH.shape, ("batch", "time", "heads", "head_dim"))
    return spec is not None and spec[1] is not None


def attend_on_shards(
    attend: Attend,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    segment_ids_BT: jax.Array | None,
) -> jax.Array:
    """Call `attend` with each device's share of these arguments; return out_BTNH.

    The tokens of a row must lie on one device (`is_time_split`), and the caller must not be in a
    `shard_map` of its own (a pipeline's stage).
    """
    k_BSKH, v_BSKH, spec_BTNH, spec_BSKH = placed_alike(q_BTNH, k_BSKH, v_BSKH)
    if spec_BTNH is None:
        return attend(q_BTNH, k_BSKH, v_BSKH, segment_ids_BT)
    on_shards = jax.shard_map(
        attend,
        in_specs=(spec_BTNH, spec_BSKH, spec_BSKH, PartitionSpec(spec_BTNH[0])),
        out_specs=spec_BTNH,
        check_vma=False,
    )
    return cast(jax.Array, on_shards(q_BTNH, k_BSKH, v_BSKH, segment_ids_BT))


def placed_alike(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array
) -> tuple[jax.Array, jax.Array, PartitionSpec | None, PartitionSpec | None]:
    """Return keys, values, and where queries and they lie: heads on the device of their queries.

    A head is whole on its device, whatever the rules say of its width: a score is a sum over it.
    Key/value heads that are not split like the query heads become one for each query head.
    """
    spec_BTNH = placement(q_BTNH.shape, ("batch", "time", "heads", None))
    spec_BSKH = placement(k_BSKH.shape, ("batch", "time", "kv_heads", None))
    if spec_BTNH != spec_BSKH:
        groups = q_BTNH.shape[2] // k_BSKH.shape[2]
        k_BSKH, v_BSKH = (jnp.repeat(x_BSKH, groups, axis=2) for x_BSKH in (k_BSKH, v_BSKH))
        spec_BSKH = spec_BTNH
    return k_BSKH, v_BSKH, spec_BTNH, spec_BSKH
