"""Parameters of an adapted model: which are trained, and the model without adapter that equals it.

Parameters are nested dicts of arrays; a part of them is the same tree without the other leaves.

Axes: L layers.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxgpt.errors import ConfigError
from jaxgpt.model.gpt import Gpt
from jaxgpt.model.layers.token_changes import TOKEN_CHANGES, merge_changes

_KERNEL = "kernel"
# Where ids have rows or columns: the part of the model, its parameter, and the axis of ids.
_TABLES = (("embedding", "table", 0), ("head", _KERNEL, 1))
_BLOCKS = "blocks"
_SUB_LAYERS = ("attention", "feed_forward")

Path = tuple[str, ...]


def is_trained(model: Gpt, path: Path) -> bool:
    """Return whether the parameter with this path is trained.

    Without an adapter all are. With one its own are, and a head that the base does not have.
    """
    is_of_new_head = path[0] == "head" and model.config.head.is_new
    return is_of_new_head or model.adapter.is_trainable(path)


def split(tree: Any, is_first: Callable[[Path], bool], path: Path = ()) -> tuple[Any, Any]:
    """Divide nested dicts by the paths of their leaves; a part without leaves is {}.

    Leaves are all that is no dict.
    """
    first, second = {}, {}
    for key, value in tree.items():
        here = (*path, key)
        if isinstance(value, Mapping):
            one, two = split(value, is_first, here)
            first |= {key: one} if one else {}
            second |= {key: two} if two else {}
        else:
            (first if is_first(here) else second)[key] = value
    return first, second


def join(first: Any, second: Any) -> Any:
    """Undo `split`."""
    joined = dict(first)
    for key, value in second.items():
        joined[key] = join(joined[key], value) if key in joined else value
    return joined


def take(tree: Any, like: Any) -> Any:
    """Return the part of nested dicts that has the leaves of `like`."""
    return {
        key: take(tree[key], part) if isinstance(part, Mapping) else tree[key]
        for key, part in like.items()
    }


def merge(model: Gpt, params: Any) -> Any:
    """Return the parameters of `model.config` without adapter that give the same outputs.

    Args:
        model: with an adapter, or without one.
        params: all of its parameters.
    """
    adapter = model.adapter
    if not adapter.has_parameters:
        return params
    own, rest = split(params, adapter.is_trainable)
    changes, own = split(own, lambda path: path[-1] == TOKEN_CHANGES)
    for part, name, id_axis in _TABLES:
        if part in changes:
            change_KD = changes[part][TOKEN_CHANGES]
            # The changes may be more exact than the table.
            table = rest[part][name].astype(change_KD.dtype)
            merged = merge_changes(table, change_KD, adapter.changed_ids, id_axis)
            rest = rest | {part: rest[part] | {name: merged}}
    merge_layers = jax.vmap(adapter.merge)

    def merge_into(rest: Any, own: Any) -> Any:
        if _KERNEL not in rest:
            return rest | {key: merge_into(rest[key], part) for key, part in own.items()}
        # The adapter's numbers may be more exact than the kernel.
        kernel = rest[_KERNEL].astype(jax.tree.leaves(own)[0].dtype)
        return rest | {_KERNEL: merge_layers(kernel, own)}

    return merge_into(rest, own)


def check_targets(model: Gpt, params: Any) -> None:
    """Refuse an adapter of projections that a model does not have.

    Args:
        model: with or without an adapter.
        params: its parameters, or their shapes.

    Raises:
        ConfigError: the adapter cannot be; names the projections that it may have.
    """
    largest = max(model.adapter.changed_ids, default=0)
    if largest >= model.vocab_size:
        raise ConfigError(
            f"adapter.token_ids has {largest}, and the tokenizer's ids end at "
            f"{model.vocab_size - 1}; choose from those"
        )
    has_experts = model.config.feed_forward.count_experts() is not None
    attention, feed_forward = (_projections(params[_BLOCKS][name]) for name in _SUB_LAYERS)
    if has_experts:
        model.adapter.check(attention, feed_forward)
    else:
        model.adapter.check(attention | feed_forward, frozenset())


def _projections(tree: Any) -> frozenset[str]:
    """Return the names of the parts that have a kernel."""
    names = set()
    for key, value in tree.items():
        if isinstance(value, Mapping):
            names |= {key} if _KERNEL in value else _projections(value)
    return frozenset(names)
