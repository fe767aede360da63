"""Sums of rows with the same id in one order, whatever the device: the gradient of a look-up.

A scatter that adds is in no order on a GPU. Made deterministic by XLA it sorts as many numbers as
the rows have. Here only the ids are sorted, in three steps:

1. Sorted rows are cut into blocks of R. In a block a product with zeros and ones adds up the rows
   of each id, in float32.
2. An id's rows may reach over several blocks. The sums of later blocks are added to the first one.
3. Each id now has one sum, which is written to its row of the table.

Axes: B batch, T time, N tokens of all rows, D model, M blocks, R rows or different ids of a block,
V rows of the table.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxgpt.model.layers.placement import mesh_axes, placement

# Fewer make more sums that reach over blocks, more a larger product.
_BLOCK_ROWS = 256


def sum_rows_by_id(
    rows_BTD: jax.Array, ids_BT: jax.Array, table: jax.ShapeDtypeStruct
) -> jax.Array:
    """Return the sum of the rows of each id, [V, D], of the shape and type of `table`.

    Args:
        rows_BTD: placed as `place_embedding_gradient` does; added up in float32, or wider.
        ids_BT: from 0 to V - 1.
        table: shape and type of the result.
    """
    spec = placement(ids_BT.shape, ("storage batch", "time"))
    axes = mesh_axes(spec)

    def run(rows_BTD: jax.Array, ids_BT: jax.Array) -> jax.Array:
        sums_VD = _sum_here(rows_BTD.reshape(-1, rows_BTD.shape[2]), ids_BT.ravel(), table)
        return lax.psum(sums_VD, axes) if axes else sums_VD

    if not axes:
        return run(rows_BTD, ids_BT)
    # Each device sorts its own ids; left to XLA, they would be brought together.
    assert spec is not None, "axes come from a placement"
    return jax.shard_map(
        run, in_specs=(spec, spec), out_specs=PartitionSpec(), axis_names=set(axes), check_vma=False
    )(rows_BTD, ids_BT)


def _sum_here(rows_ND: jax.Array, ids_N: jax.Array, table: jax.ShapeDtypeStruct) -> jax.Array:
    num_ids = table.shape[0]
    order_N = jnp.argsort(ids_N, stable=True)
    # Rows beyond the last get an id that is not in the table.
    missing = -ids_N.size % _BLOCK_ROWS
    ids_MR = jnp.pad(ids_N[order_N], (0, missing), constant_values=num_ids)
    ids_MR = ids_MR.reshape(-1, _BLOCK_ROWS)
    sorted_ND = jnp.pad(rows_ND[order_N], ((0, missing), (0, 0)))
    sums_MRD, sum_ids_MR = _sum_blocks(sorted_ND.reshape(*ids_MR.shape, -1), ids_MR, table.dtype)
    sums_MRD, is_first_MR = _join_blocks(sums_MRD, sum_ids_MR)
    is_written_MR = is_first_MR & (sum_ids_MR < num_ids)
    # What is not written has numbers beyond the table, no two alike.
    beyond_MR = num_ids + jnp.arange(sum_ids_MR.size, dtype=jnp.int32).reshape(sum_ids_MR.shape)
    places_MR = jnp.where(is_written_MR, sum_ids_MR, beyond_MR)
    zeros_VD = jnp.zeros(table.shape, table.dtype)
    return zeros_VD.at[places_MR].set(sums_MRD, mode="drop", unique_indices=True)


def _sum_blocks(rows_MRD: jax.Array, ids_MR: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Return the sums of each block's ids, which come first, and these ids; -1 where none is."""
    is_new_MR = ids_MR[:, 1:] != ids_MR[:, :-1]
    numbers_MR = jnp.cumsum(jnp.pad(is_new_MR, ((0, 0), (1, 0))).astype(jnp.int32), axis=1)
    # [sum, row] of each block.
    adds_MRR = numbers_MR[:, None, :] == jnp.arange(_BLOCK_ROWS)[:, None]
    sums_MRD = lax.dot_general(
        adds_MRR.astype(rows_MRD.dtype),
        rows_MRD,
        (((2,), (1,)), ((0,), (0,))),
        # Float32 rows would be rounded to TF32.
        precision=lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )
    return sums_MRD, jnp.max(jnp.where(adds_MRR, ids_MR[:, None, :], -1), axis=2)


def _join_blocks(sums_MRD: jax.Array, ids_MR: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Add to the last id of each block what later blocks have of it.

    Returns:
        The sums, and which of them are the whole of an id.
    """
    first_M, last_M = ids_MR[:, 0], jnp.max(ids_MR, axis=1)
    numbers_M = jnp.arange(first_M.size)
    # Ids are sorted: whatever later blocks have of an id stands first in each of them.
    is_later_MM = (first_M == last_M[:, None]) & (numbers_M > numbers_M[:, None])
    later_MD = jnp.sum(jnp.where(is_later_MM[..., None], sums_MRD[:, 0], 0), axis=1)
    sums_MRD = sums_MRD + jnp.where((ids_MR == last_M[:, None])[..., None], later_MD[:, None], 0)
    goes_on_M = jnp.pad(first_M[1:] == last_M[:-1], (1, 0))
    is_first_MR = ~(goes_on_M[:, None] & (jnp.arange(ids_MR.shape[1]) == 0))
    return sums_MRD, is_first_MR & (ids_MR >= 0)
