"""`Embedding`: a table of one vector per id, and the gradient of looking rows up in it.

Axes: B batch, T time, D model, V rows of the table.
"""

import functools
from typing import Any, Protocol, cast, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgpt.model.layers.dtypes import accumulator_dtype
from jaxgpt.model.layers.matmul import Kernel
from jaxgpt.model.layers.placement import (
    constrain_storage,
    gather_for_use,
    mesh_axes,
    place_embedding_gradient,
    placement,
    storage_axes,
)
from jaxgpt.model.layers.projection import LayerSettings, add_param
from jaxgpt.model.layers.row_sums import sum_rows_by_id
from jaxgpt.model.layers.token_changes import add_changes, change_kernel, look_up_changes
from jaxgpt.runtime.target import compile_target

Axes = tuple[str, str]


@runtime_checkable
class CustomTable(Protocol):
    """A table that is not an array and looks its rows up by itself."""

    def look_up(self, ids_BT: jax.Array, dtype: Any) -> jax.Array:
        """Return x_BTD in `dtype`; an id outside the table takes its nearest row."""
        ...


class Embedding(nn.Module):
    """A table of one vector per id, at first N(0, std^2); an adapter may change single rows."""

    num_rows: int
    axes: Axes
    std: float
    settings: LayerSettings

    def setup(self) -> None:
        shape = (self.num_rows, self.settings.d_model)
        init = nn.initializers.normal(self.std)
        self.table = add_param(self, "table", init, shape, self.axes, self.settings)
        self.changed_ids = self.settings.adapter.changed_ids
        if self.changed_ids:
            leading, settings = self.settings.adapter.leading_shape, self.settings
            about = len(self.changed_ids), settings.d_model, settings.param_dtype
            self.token_changes = add_changes(self, leading, *about)

    def __call__(self, ids_BT: jax.Array) -> jax.Array:
        """Return x_BTD in the compute dtype; an id outside the table takes its nearest row."""
        dtype = jnp.dtype(self.settings.compute_dtype)
        if isinstance(self.table, CustomTable):
            x_BTD = self.table.look_up(ids_BT, dtype)
        else:
            like = jax.ShapeDtypeStruct(self.table.shape, self.table.dtype)
            x_BTD = cast(jax.Array, _look_up(self.table, ids_BT, self.axes, dtype, like))
        if self.changed_ids:
            x_BTD += look_up_changes(self.token_changes, self.changed_ids, ids_BT, dtype)
        return x_BTD

    def as_kernel(self, table_VD: Kernel | None = None) -> Kernel:
        """Return the table [V, D] as a head multiplies with it.

        Args:
            table_VD: a decoder's form of the table; None for the table itself.
        """
        table_VD = self.table if table_VD is None else table_VD
        if not self.changed_ids:
            return table_VD
        return change_kernel(table_VD, self.token_changes, self.changed_ids, id_axis=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _look_up(
    table_VD: jax.Array, ids_BT: jax.Array, axes: Axes, dtype: Any, like: jax.ShapeDtypeStruct
) -> jax.Array:
    """Return rows of a table that is kept by the names of its axes, in `dtype`.

    Where devices share the table, they exchange numbers of that type: the table along `fsdp`, rows
    along `tensor`. Its gradient adds up in float32.
    """
    if compile_target().is_cpu and not mesh_axes(placement(table_VD.shape, storage_axes(axes))):
        # Fewer numbers to round than the table has.
        return _take(table_VD, ids_BT).astype(dtype)
    return _take(gather_for_use(table_VD, dtype, *axes), ids_BT)


def _look_up_forward(
    table_VD: jax.Array, ids_BT: jax.Array, axes: Axes, dtype: Any, like: jax.ShapeDtypeStruct
) -> tuple[jax.Array, jax.Array]:
    return _look_up(table_VD, ids_BT, axes, dtype, like), ids_BT


@jax.named_scope("embedding_gradient")
def _look_up_backward(
    axes: Axes, dtype: Any, like: jax.ShapeDtypeStruct, ids_BT: jax.Array, dx_BTD: jax.Array
) -> tuple[jax.Array, None]:
    dx_BTD = place_embedding_gradient(dx_BTD)
    sums = jax.ShapeDtypeStruct(like.shape, accumulator_dtype(like.dtype))
    if compile_target().is_deterministic:
        dtable_VD = sum_rows_by_id(dx_BTD, jnp.clip(ids_BT, 0, like.shape[0] - 1), sums)
    else:
        add_up = jax.linear_transpose(lambda table_VD: _take(table_VD, ids_BT), sums)
        (dtable_VD,) = add_up(dx_BTD.astype(sums.dtype))
    return constrain_storage(dtable_VD.astype(like.dtype), *axes), None


_look_up.defvjp(_look_up_forward, _look_up_backward)


def _take(table_VD: jax.Array, ids_BT: jax.Array) -> jax.Array:
    return jnp.take(table_VD, ids_BT, axis=0, mode="clip")
