"""The state of all slots on the device, of which a few may lie apart for a while.

Axes: B slots, R of them.
"""

import functools
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

S = TypeVar("S")


class SlotState(Generic[S]):
    """The state of all slots, of which a few lie apart as long as nothing else is used.

    Args:
        slots: the state of all, a tree of arrays with the axis B in front.
    """

    def __init__(self, slots: S) -> None:
        self._all = slots
        self._few: S | None = None
        self._rows_R = np.zeros(0, np.int32)

    @property
    def all(self) -> S:
        """The state of all slots; what lay apart is put back."""
        if self._few is not None:
            self._all = _put_rows(self._all, self._rows_R, self._few)
            self._few = None
        return self._all

    @all.setter
    def all(self, slots: S) -> None:
        self._all, self._few = slots, None

    def few(self, rows_R: np.ndarray) -> S:
        """Return the state of some slots, which lies apart from now on; `keep` gives the next."""
        if self._few is not None and np.array_equal(rows_R, self._rows_R):
            return self._few
        few = take_rows(self.all, rows_R)
        self._few, self._rows_R = few, rows_R
        return few

    def keep(self, few: S) -> None:
        """Let what lies apart be `few`."""
        self._few = few


@jax.jit
def take_rows(slots: S, rows_R: Array | np.ndarray) -> S:
    """Return the state of some slots."""

    def take(all_: Array) -> Array:
        # As pieces, which are copied as they lie.
        rows = [jax.lax.dynamic_slice_in_dim(all_, row, 1) for row in rows_R]
        return jnp.concatenate(rows)

    return jax.tree.map(take, slots)


@functools.partial(jax.jit, donate_argnums=0)
def _put_rows(slots: S, rows_R: Array | np.ndarray, few: S) -> S:
    """Return the state of all slots with that of some."""

    def put(all_: Array, new: Array) -> Array:
        for number, row in enumerate(rows_R):
            piece = new[number : number + 1]
            all_ = jax.lax.dynamic_update_slice_in_dim(all_, piece, row, 0)
        return all_

    return jax.tree.map(put, slots, few)
