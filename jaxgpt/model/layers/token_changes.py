"""Trained rows of single tokens in a frozen embedding table, or columns of a frozen head.

    W'[i] = W[i] + C[k]     for the k-th of the ids i; all other rows are those of W

The changes C begin at zero. They are what PEFT calls `trainable_token_indices`: a base that has
never seen a token cannot tell it from others, which no adapter of the blocks can mend.

Where rows of a batch have adapters of their own, the changes are [B, K, D].

Axes: ... any leading axes, B batch, T time, D model, V rows of the table, K changed ids.
"""

import functools
from typing import Any, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxgpt.model.layers.matmul import Axes, Kernel, project

TOKEN_CHANGES = "token_changes"


class ChangedKernel(flax.struct.PyTreeNode):
    """A head's kernel with changes, of which only the changes need a gradient that is not whole.

    Attributes:
        merged: W' [V, D], or [D, V] where it is used untransposed.
        changes_KD: C.
        ids: the K ids.
    """

    merged: jax.Array
    changes_KD: jax.Array
    ids: tuple[int, ...] = flax.struct.field(pytree_node=False)

    def multiply(
        self, x: jax.Array, num_inputs: int, transposed: bool, axes: Axes, dtype: Any
    ) -> jax.Array:
        """Return x times W' [..., V]; see `project`."""
        assert num_inputs == 1, "a head contracts the model's width"
        how = self.ids, transposed, axes
        return cast(jax.Array, _multiply(x, self.merged, self.changes_KD, *how)).astype(dtype)


class RowChangedKernel(flax.struct.PyTreeNode):
    """A head's kernel with changes of its own for each row of a batch; there is no gradient.

    Attributes:
        kernel: W, [V, D] or [D, V].
        changes_BKD: C of each row.
        ids: the K ids.
    """

    kernel: Kernel
    changes_BKD: jax.Array
    ids: tuple[int, ...] = flax.struct.field(pytree_node=False)

    def multiply(
        self, x: jax.Array, num_inputs: int, transposed: bool, axes: Axes, dtype: Any
    ) -> jax.Array:
        """Return x [B, T, D] times each row's W', [B, T, V]; see `project`."""
        y_BTV = project(x, self.kernel, num_inputs, transposed, axes).astype(dtype)
        changes_BKD = self.changes_BKD.astype(x.dtype)
        change_BTK = jnp.einsum("btd,bkd->btk", x, changes_BKD, preferred_element_type=y_BTV.dtype)
        return y_BTV.at[..., jnp.array(self.ids)].add(change_BTK, unique_indices=True)


def change_kernel(
    kernel: Kernel, changes: jax.Array, ids: tuple[int, ...], id_axis: int
) -> ChangedKernel | RowChangedKernel:
    """Return a head's kernel with changes.

    Args:
        kernel: W, [V, D] or [D, V].
        changes: C, [K, D], or [B, K, D] for rows of a batch.
        ids: ids of the changed tokens.
        id_axis: axis of `kernel` that ids count along.
    """
    if changes.ndim == 3:
        return RowChangedKernel(kernel, changes, ids)
    if not isinstance(kernel, jax.Array):
        raise TypeError("changes that are alike for all rows are merged into a kernel's array")
    merged = merge_changes(kernel, jax.lax.stop_gradient(changes), ids, id_axis)
    return ChangedKernel(merged, changes, ids)


def merge_changes(
    kernel: jax.Array, changes_KD: jax.Array, ids: tuple[int, ...], id_axis: int
) -> jax.Array:
    """Return W' in the type of the kernel; see `change_kernel`."""
    places = jnp.array(ids)
    rows_KD = kernel[places] if id_axis == 0 else kernel[:, places].T
    changed_KD = (rows_KD.astype(changes_KD.dtype) + changes_KD).astype(kernel.dtype)
    if id_axis == 0:
        return kernel.at[places].set(changed_KD)
    return kernel.at[:, places].set(changed_KD.T)


def look_up_changes(
    changes: jax.Array, ids: tuple[int, ...], tokens_BT: jax.Array, dtype: Any
) -> jax.Array:
    """Return the changes of the rows of tokens [B, T, D]; 0 for tokens that have none.

    Args:
        changes: C, [K, D], or [B, K, D] for rows of a batch.
        ids: ids of the changed tokens.
        tokens_BT: ids.
        dtype: type of the result.
    """
    is_id_BTK = (tokens_BT[..., None] == jnp.array(ids)).astype(dtype)
    # A sum of one term: the row, rounded once.
    if changes.ndim == 2:
        return project(is_id_BTK, changes).astype(dtype)
    return jnp.einsum("btk,bkd->btd", is_id_BTK, changes.astype(dtype))


def add_changes(
    module: nn.Module, leading: tuple[int, ...], num_ids: int, d_model: int, dtype: str
) -> jax.Array:
    """Give a module the parameter C [K, D], at zero; each device has all of it.

    Args:
        module: gets the parameter.
        leading: sizes of further axes before K.
        num_ids: K.
        d_model: D.
        dtype: of the parameter.
    """
    shape = (*leading, num_ids, d_model)
    names = (None,) * len(shape)
    init = nn.with_logical_partitioning(nn.initializers.zeros, names, rules=())
    return cast(jax.Array, module.param(TOKEN_CHANGES, init, shape, jnp.dtype(dtype)))


def round_merged(kernel: Kernel, rounded: Any) -> Kernel:
    """Return a kernel after `rounded`, a function of its array, has rounded and gathered it."""
    if isinstance(kernel, ChangedKernel):
        return kernel.replace(merged=rounded(kernel.merged))
    return cast(Kernel, rounded(kernel))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _multiply(
    x: jax.Array,
    merged: jax.Array,
    changes_KD: jax.Array,
    ids: tuple[int, ...],
    transposed: bool,
    axes: Axes,
) -> jax.Array:
    return project(x, merged, transposed=transposed, axes=axes)


def _forward(
    x: jax.Array,
    merged: jax.Array,
    changes_KD: jax.Array,
    ids: tuple[int, ...],
    transposed: bool,
    axes: Axes,
) -> Any:
    return project(x, merged, transposed=transposed, axes=axes), (x, merged, changes_KD)


def _backward(ids: tuple[int, ...], transposed: bool, axes: Axes, saved: Any, dy: jax.Array) -> Any:
    """Return the gradients; the one of the changes reads the K columns of `dy` alone."""
    x, merged, changes_KD = saved
    _, pull = jax.vjp(lambda x, k: project(x, k, transposed=transposed, axes=axes), x, merged)
    dy_K = dy[..., jnp.array(ids)].astype(x.dtype)
    leading = tuple(range(x.ndim - 1))
    dchanges_KD = jax.lax.dot_general(
        dy_K, x, ((leading, leading), ((), ())), preferred_element_type=changes_KD.dtype
    )
    return *pull(dy), dchanges_KD


_multiply.defvjp(_forward, _backward)
