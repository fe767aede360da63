"""Muon's direction: momentum with a look ahead, made orthogonal, at the size of Adam's updates."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgpt.training.orthogonalization import STACKING, Axes, orthogonalize


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
