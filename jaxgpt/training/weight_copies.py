"""Copies of weights for the micro-batches of a step, made once per step.

Parameters are float32, all layers in one array, and split along `fsdp`. Each micro-batch would
round them, cut them into layers and gather them from other devices again. A copy has the compute
type, is one array per layer, and is whole along `fsdp`. A gradient is that of the parameter, in its
type and split as it is; where copies are cut into layers, so are sums of gradients, until the end
of the step. XLA then adds up the sums of devices along `data` once a step, too: it sees the same
addition in each micro-batch, and moves the exchange behind the last one.

Axes: L layers.
"""

import contextlib
import dataclasses
import functools
import logging
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxgpt.model.adapted import join
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layer_stack import Unrolled
from jaxgpt.model.layers.placement import collected, gather_for_use
from jaxgpt.model.moe.mixture_of_experts import is_rounded
from jaxgpt.runtime.target import CompileTarget
from jaxgpt.training.state import StatePlan

logger = logging.getLogger(__name__)

_LAYERS = "layers"
_EMBED = "embed"


class _Leaf(NamedTuple):
    """Layout of the copy of one parameter.

    Attributes:
        axes: names of a layer's axes.
        num_layers: number of arrays to cut it into; None for a parameter that all layers share.
    """

    axes: tuple[str | None, ...]
    num_layers: int | None


@dataclasses.dataclass(frozen=True)
class WeightCopies:
    """Parameters to copy, and layouts of the copies; made by `plan_copies`.

    Attributes:
        leaves: by path of the parameter.
        dtype: compute type of the model.
        num_bytes: of the copies on one device.
    """

    leaves: dict[str, _Leaf] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"
    num_bytes: int = 0

    @property
    def has_layers(self) -> bool:
        """Return whether layers are copied."""
        return any(how.num_layers is not None for how in self.leaves.values())

    def has(self, path: Any) -> bool:
        """Return whether the parameter at a path is copied."""
        return _spell(path) in self.leaves

    def make(self, params: Any) -> Any:
        """Return the parameters, with copies in place of those that are copied."""

        def copy(leaf: jax.Array, how: _Leaf) -> Any:
            return [gather_for_use(piece, self.dtype, *how.axes) for piece in _cut(leaf, how)]

        return self._map(copy, params)

    def restore(self, copies: Any, like: Any) -> Any:
        """Return parameters in the model's form, of the types of `like`, for use in a program.

        To the compiler, pieces of what was just joined are the pieces, and numbers in float32 that
        came from bfloat16 and go to bfloat16 never left it.
        """

        def restore(leaf: jax.Array, how: _Leaf, pieces: list[jax.Array]) -> jax.Array:
            return _join([piece.astype(leaf.dtype) for piece in pieces], how)

        return self._map(restore, like, copies)

    def cut(self, grads: Any) -> Any:
        """Return gradients, cut into layers as the copies are."""
        return self._map(_cut, grads)

    def join(self, grads: Any, like: Any) -> Any:
        """Undo `cut`."""
        return self._map(lambda _, how, pieces: _join(pieces, how), like, grads)

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        """Make the model treat the arrays of `restore` as gathered, within the context."""
        return collected(frozenset(how.axes for how in self.leaves.values()))

    def _map(self, function: Any, tree: Any, *others: Any) -> Any:
        def one(path: Any, leaf: Any, *rest: Any) -> Any:
            how = self.leaves.get(_spell(path))
            if how is None:
                return rest[0] if rest else leaf
            return function(leaf, how, *rest)

        return jax.tree_util.tree_map_with_path(one, tree, *others)


NO_COPIES = WeightCopies()


def plan_copies(
    config: GptConfig,
    plan: StatePlan,
    target: CompileTarget,
    num_micro_batches: int,
    max_bytes: int,
) -> WeightCopies:
    """Choose the weights to copy: the embedding and the head, then all layers, where they fit.

    Args:
        config: of the model.
        plan: of the state that the parameters are a part of.
        target: the kind of device.
        num_micro_batches: of a step; layers are copied for several only.
        max_bytes: of a device's memory that copies may take.
    """
    shared, layers = _Group(), _Group()
    named = jax.tree_util.tree_leaves_with_path(join(plan.abstract.trainable, plan.abstract.frozen))
    names = jax.tree.leaves(
        join(plan.axes, plan.frozen_axes), is_leaf=lambda axes: isinstance(axes, tuple)
    )
    for (path, leaf), axes in zip(named, names, strict=True):
        if is_rounded(path):
            group = layers if _LAYERS in axes else shared
            group.add(_spell(path), leaf, axes, config.compute_dtype)
    is_rounding = layers.is_rounding and not target.is_cpu
    # Other ways to run layers take them from one array.
    can_cut = isinstance(config.layers, Unrolled) and config.feed_forward.count_experts() is None
    chosen = _Group()
    if shared.is_split:
        chosen.join(shared, max_bytes, "the embedding and the head")
    if (layers.is_split or is_rounding) and num_micro_batches > 1 and can_cut:
        chosen.join(layers, max_bytes, "all layers")
    return WeightCopies(chosen.leaves, config.compute_dtype, chosen.num_bytes)


@dataclasses.dataclass
class _Group:
    """Parameters that are copied together.

    Attributes:
        leaves: by path.
        num_bytes: of the copies on one device.
        is_split: whether devices exchange some of them where they use them.
        is_rounding: whether some are kept in another type than copies.
    """

    leaves: dict[str, _Leaf] = dataclasses.field(default_factory=dict)
    num_bytes: int = 0
    is_split: bool = False
    is_rounding: bool = False

    def add(self, path: str, leaf: Any, axes: tuple[str | None, ...], dtype: str) -> None:
        """Add a parameter with its logical axes."""
        is_layer = _LAYERS in axes
        own = tuple(axis for axis in axes if axis != _LAYERS)
        self.leaves[path] = _Leaf(own, leaf.shape[0] if is_layer else None)
        spec = leaf.sharding.spec
        whole = (None if axis == _EMBED else part for axis, part in zip(axes, spec, strict=True))
        used = NamedSharding(leaf.sharding.mesh, PartitionSpec(*whole))
        shape = used.shard_shape(leaf.shape)
        self.num_bytes += jnp.dtype(dtype).itemsize * math.prod(shape)
        self.is_split |= shape != leaf.sharding.shard_shape(leaf.shape)
        self.is_rounding |= leaf.dtype != jnp.dtype(dtype)

    def join(self, other: "_Group", max_bytes: int, name: str) -> None:
        """Add all of another group if that takes no more than `max_bytes`; else say so."""
        num_bytes = self.num_bytes + other.num_bytes
        if num_bytes <= max_bytes:
            self.leaves |= other.leaves
            self.num_bytes = num_bytes
        elif max_bytes > 0:
            _log_left_out(name, num_bytes, max_bytes)


@functools.cache
def _log_left_out(name: str, num_bytes: int, max_bytes: int) -> None:
    logger.info(
        "weights of %s are prepared in each micro-batch: copies for a whole step would take %d "
        "bytes of a device, and runtime.max_copied_bytes is %d",
        name, num_bytes, max_bytes,
    )  # fmt: skip


def _cut(leaf: jax.Array, how: _Leaf) -> list[jax.Array]:
    if how.num_layers is None:
        return [leaf]
    pieces = jax.lax.split(leaf, [1] * how.num_layers)
    return [piece.reshape(piece.shape[1:]) for piece in pieces]


def _join(pieces: list[jax.Array], how: _Leaf) -> jax.Array:
    return pieces[0] if how.num_layers is None else jnp.stack(pieces)


def _spell(path: Any) -> str:
    return jax.tree_util.keystr(path)
