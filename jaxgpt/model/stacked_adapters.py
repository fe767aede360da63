"""Several trained adapters of one model as arrays with an axis for them, from which rows choose.

Number 0 is no adapter: zeros.

Axes: L layers, A adapters and none, I inputs and O outputs of a projection, R largest rank of an
adapter, D model, K changed ids.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgpt.model.layers.adapters import LORA_A, LORA_B, Lora
from jaxgpt.model.layers.row_adapters import IS_CHANGED, RowAdapters
from jaxgpt.model.layers.token_changes import TOKEN_CHANGES

_BLOCKS = "blocks"

Path = tuple[str, ...]


class TrainedAdapter(NamedTuple):
    """An adapter after training.

    Attributes:
        adapter: its settings.
        own: its parameters alone, nested dicts as a model has them.
    """

    adapter: Lora
    own: Any


def stack_adapters(
    trained: Sequence[TrainedAdapter], dtype: str
) -> tuple[RowAdapters, dict[str, Any]]:
    """Return all adapters as one, for one row, and its arrays.

    Args:
        trained: the adapters of one model, at least one; they get the numbers from 1 on.
        dtype: type of the arrays.

    Returns:
        The adapter, and nested dicts as a model has them: below `blocks` [L, A, I..., R],
        [L, A, R, O...] and bool [L, A], elsewhere changes of rows of tokens [A, K, D].
    """
    rank = max(each.adapter.rank for each in trained)
    ids = tuple(sorted({token for each in trained for token in each.adapter.changed_ids}))
    leaves = [dict(_leaves(each.own)) for each in trained]
    stacked: dict[str, Any] = {}
    for path in dict.fromkeys(path for each in leaves for path in each):
        parts = [
            None if path not in own else _widen(path[-1], own[path], each.adapter, rank, ids)
            for own, each in zip(leaves, trained, strict=True)
        ]
        like = next(part for part in parts if part is not None)
        zeros = np.zeros_like(like)
        arrays = [zeros, *(zeros if part is None else part for part in parts)]
        axis = 1 if path[0] == _BLOCKS else 0
        _put(stacked, path, jnp.asarray(np.stack(arrays, axis), dtype))
        if path[-1] == LORA_B:
            is_changed_A = np.array([False, *(part is not None for part in parts)])
            is_changed_LA = np.tile(is_changed_A, (len(like), 1))
            _put(stacked, (*path[:-1], IS_CHANGED), jnp.asarray(is_changed_LA))
    targets = {path[-2] for each in leaves for path in each if path[-1] == LORA_A}
    return RowAdapters(
        num_rows=1, rank=rank, targets=tuple(sorted(targets)), token_ids=ids
    ), stacked


def _widen(name: str, leaf: Any, adapter: Lora, rank: int, ids: tuple[int, ...]) -> np.ndarray:
    """Return a parameter of one adapter in the shape of all, zeros where it has nothing."""
    array = np.asarray(leaf, np.float32)
    if name == TOKEN_CHANGES:
        changes_KD = np.zeros((len(ids), array.shape[-1]), np.float32)
        changes_KD[[ids.index(token) for token in adapter.changed_ids]] = array
        return changes_KD
    axis = {LORA_A: array.ndim - 1, LORA_B: 1}[name]
    widths = [(0, rank - adapter.rank if each == axis else 0) for each in range(array.ndim)]
    factor = adapter.scale if name == LORA_B else 1.0
    return np.pad(array * np.float32(factor), widths)


def _leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _put(tree: dict[str, Any], path: Path, value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
