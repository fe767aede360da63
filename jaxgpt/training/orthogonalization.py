"""Nearest orthogonal matrices of many matrices at once, by Newton-Schulz, spread over the devices.

A device must hold a matrix whole to multiply it with itself, also if `fsdp` or `tensor` splits it.
To gather it in every product would send all traffic through every device. Instead, the matrices of
one shape are distributed: each device gets some of them whole, works alone, and sends the results
back. That takes two exchanges, and 1/n of the products on each of n devices.

Axes: M matrices, D width of the model, X the other side of a matrix.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from jaxgpt.model.layers.placement import placement

Axes = tuple[str | None, ...]
# Axes along which matrices that have nothing to do with each other are stacked.
STACKING = ("layers", "expert")
# Of c0 X + c1 (X X') X + c2 (X X')^2 X, whose slope at 0 is as steep as five steps allow
# (github.com/KellerJordan/Muon).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
_EPS = 1e-8


def orthogonalize(arrays: Sequence[jax.Array], axes: Sequence[Axes]) -> list[jax.Array]:
    """Replace every matrix with about the nearest orthogonal one: singular values of 0.7 to 1.2.

    Args:
        arrays: each a matrix with its width along "embed", or several stacked along `STACKING`;
            float32.
        axes: logical axes of each array; all that is neither stacked nor "embed" is one side of
            the matrix.

    Returns:
        arrays of the same shapes, placed as parameters are.
    """
    layouts = [_layout(array.shape, names) for array, names in zip(arrays, axes, strict=True)]
    groups = defaultdict(list)
    for number, layout in enumerate(layouts):
        # What is whole on its device is worked on array by array, which takes less memory.
        groups[layout.group if layout.is_split else number].append(number)
    found: dict[int, jax.Array] = {}
    for numbers in groups.values():
        chosen = [layouts[number] for number in numbers]
        work = functools.partial(_orthogonalize_shares, chosen)
        if chosen[0].is_split:
            specs = tuple(layout.spec for layout in chosen)
            work = jax.shard_map(work, in_specs=specs, out_specs=specs)
        found |= zip(numbers, work(*(arrays[number] for number in numbers)), strict=True)
    return [found[number] for number in range(len(arrays))]


class _Layout(NamedTuple):
    """Layout of the matrices in an array, and on the devices.

    Attributes:
        order: permutation of the array's axes to [stacked..., width, other...].
        num_stacked: number of stacked axes.
        spec: mesh axes that split the array.
        group: equal for arrays whose matrices can be stacked: the sizes of both sides, and the
            mesh axes that split the stack, the width, and the other side.
    """

    order: tuple[int, ...]
    num_stacked: int
    spec: PartitionSpec
    group: tuple[tuple[int, int], tuple[str, ...], tuple[str, ...], tuple[str, ...]]

    @property
    def is_split(self) -> bool:
        *_, width, other = self.group
        return bool(width or other)


def _layout(shape: tuple[int, ...], axes: Axes) -> _Layout:
    stacked = [place for place, name in enumerate(axes) if name in STACKING]
    width = axes.index("embed")
    other = [place for place in range(len(axes)) if place not in (*stacked, width)]
    # Parameters and their moments have the storage sharding.
    spec = placement(shape, tuple(name and f"storage {name}" for name in axes)) or PartitionSpec()
    split = [spec[place] or () if place < len(spec) else () for place in range(len(axes))]
    split = [(names,) if isinstance(names, str) else names for names in split]
    apart = tuple(name for place in stacked for name in split[place])
    others = tuple(name for place in other for name in split[place])
    sizes = (shape[width], math.prod(shape[place] for place in other))
    group = (sizes, apart, split[width], others)
    return _Layout((*stacked, width, *other), len(stacked), spec, group)


def _orthogonalize_shares(layouts: Sequence[_Layout], *shares: jax.Array) -> tuple[jax.Array, ...]:
    """Orthogonalise on one device: from its shares of some arrays to its shares of the results."""
    *_, width, other = layouts[0].group
    ordered = [share.transpose(layout.order) for share, layout in zip(shares, layouts, strict=True)]
    matrices = [
        _stack(share, layout.num_stacked) for share, layout in zip(ordered, layouts, strict=True)
    ]
    counts = [len(share) for share in matrices]
    x_MDX = jnp.concatenate(matrices) if len(matrices) > 1 else matrices[0]
    axes = [(name, 1) for name in width] + [(name, 2) for name in other]
    parts = math.prod(jax.lax.axis_size(name) for name, _ in axes)
    # A matrix of zeros stays one.
    x_MDX = jnp.pad(x_MDX, ((0, -len(x_MDX) % parts), (0, 0), (0, 0)))
    # XLA would look through the stack, and refuse parts of different layouts in one exchange.
    x_MDX = jax.lax.optimization_barrier(x_MDX)
    # Columns may come together in another order than they had; they go back the same way.
    for name, side in axes:
        x_MDX = jax.lax.all_to_all(x_MDX, name, 0, side, tiled=True)
    x_MDX = newton_schulz(x_MDX)
    for name, side in reversed(axes):
        x_MDX = jax.lax.all_to_all(x_MDX, name, side, 0, tiled=True)
    starts = [sum(counts[:number]) for number in range(1, len(counts))]
    results = jnp.split(x_MDX[: sum(counts)], starts)
    return tuple(
        result.reshape(share.shape).transpose(_inverse(layout.order))
        for result, share, layout in zip(results, ordered, layouts, strict=True)
    )


@jax.named_scope("newton_schulz")
def newton_schulz(x_MDX: jax.Array) -> jax.Array:
    """Run five iterations on every matrix, along its shorter side."""
    is_tall = x_MDX.shape[1] > x_MDX.shape[2]
    x = jnp.swapaxes(x_MDX, 1, 2) if is_tall else x_MDX
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + _EPS)
    first, second, third = _COEFFICIENTS
    for _ in range(_NUM_ITERATIONS):
        gram = x @ jnp.swapaxes(x, 1, 2)
        x = first * x + (second * gram + third * gram @ gram) @ x
    return jnp.swapaxes(x, 1, 2) if is_tall else x


def _stack(share: jax.Array, num_stacked: int) -> jax.Array:
    """Reshape [stacked..., D, other...] to [M, D, X]."""
    stacked, width = math.prod(share.shape[:num_stacked]), share.shape[num_stacked]
    return share.reshape(stacked, width, -1)


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(place) for place in range(len(order)))


class MuonState(NamedTuple):
    """Attributes: count, int32 updates done; momentum, like the parameters."""

    count: Any
    momentum: Any


def scale_by_muon(axes: Any, beta: float, update_rms: float) -> optax.GradientTransformation:
    """Return the transformation from gradients of matrices to directions.

    Args:
        axes: tree like the gradients, whose leaves are tuples of logical axes; see `orthogonalize`.
        beta: decay of the momentum, used as Nesterov does and corrected for its start at 0.
        update_rms: root mean square of a direction (arXiv:2502.16982, section 2.2).
    """
    leaf_axes = [
        names
        for names in jax.tree.leaves(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
        if not isinstance(names, optax.MaskedNode)
    ]

    def init(params: Any) -> MuonState:
        return MuonState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, MuonState]:
        del params
        momentum = optax.tree.update_moment(updates, state.momentum, beta, 1)
        count = optax.safe_increment(state.count)
        ahead = jax.tree.map(
            lambda mean, grad: beta * mean + (1 - beta) * grad,
            optax.tree.bias_correction(momentum, beta, optax.safe_increment(count)),
            optax.tree.bias_correction(updates, beta, count),
        )
        leaves, structure = jax.tree.flatten(ahead)
        directions = [
            update_rms * math.sqrt(_longer_side(leaf.shape, names)) * leaf
            for leaf, names in zip(orthogonalize(leaves, leaf_axes), leaf_axes, strict=True)
        ]
        return structure.unflatten(directions), MuonState(count, momentum)

    return optax.GradientTransformation(init, update)


def _longer_side(shape: tuple[int, ...], axes: Axes) -> int:
    width = shape[axes.index("embed")]
    own = math.prod(size for size, name in zip(shape, axes, strict=True) if name not in STACKING)
    return max(width, own // width)
