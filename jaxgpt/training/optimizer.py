"""Optimisers as one visible optax chain; which parameters decay, and which are matrices, by axes.

Nothing here looks at a parameter's name: the logical axes that the model declares decide.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgpt.config import configclass
from jaxgpt.model.layers.low_rank import RANK_AXIS
from jaxgpt.training.averaging import Averaging, NoAveraging
from jaxgpt.training.orthogonalization import STACKING, Axes, scale_by_muon


@configclass
class Optimizer:
    """Base of the optimisers; choose `AdamW` or `Muon`."""

    weight_decay: float = 0.1
    """Decoupled weight decay of matrices and embeddings, but not of norms and biases."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradients, which are scaled down to it; None: no clipping."""
    b1: float = 0.9
    """Adam's decay of the first moment."""
    b2: float = 0.95
    """Adam's decay of the second moment."""
    eps: float = 1e-8
    """Adam's guard against division by zero."""
    averaging: Averaging = NoAveraging()
    """Average of the weights over many steps, which is then the model that is evaluated and
    used."""

    def __post_init__(self) -> None:
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay} must not be negative")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(
                f"clip_norm={self.clip_norm} must be positive, or None for no clipping"
            )
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")

    def build(self, schedule: optax.Schedule, axes: Any) -> optax.GradientTransformation:
        """Return the chain.

        Args:
            schedule: learning rate of each step.
            axes: tree like the parameters, whose leaves are tuples of logical axis names.
        """
        clip = optax.identity()
        if self.clip_norm is not None:
            clip = clip_by_norm(self.clip_norm)
        return self.averaging.wrap(optax.chain(clip, self.build_update(schedule, axes)))

    def build_update(self, schedule: optax.Schedule, axes: Any) -> optax.GradientTransformation:
        """Return the transformation from clipped gradients to updates."""
        raise TypeError("choose an optimizer: AdamW or Muon")

    def adamw(self, schedule: optax.Schedule, decays: Any) -> optax.GradientTransformation:
        """Return AdamW with this section's settings; `decays` is a tree of bools."""
        adamw = optax.adamw(
            schedule,
            b1=self.b1,
            b2=self.b2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            mask=decays,
        )
        return _in_scope("adamw", adamw)


@configclass
class AdamW(Optimizer):
    """Adam with decoupled weight decay (arXiv:1711.05101)."""

    def build_update(self, schedule: optax.Schedule, axes: Any) -> optax.GradientTransformation:
        return self.adamw(schedule, _map_axes(is_matrix, axes))


@configclass
class Muon(Optimizer):
    """Muon (momentum, orthogonalised) for the blocks' matrices, AdamW for everything else.

    Updates are scaled to the size that AdamW's have (`consistent_rms`, arXiv:2502.16982,
    section 2.2), so that one peak learning rate serves both.
    """

    momentum: float = 0.95
    """Decay of Muon's momentum."""
    matrix_learning_rate_scale: float = 1.0
    """The matrices' learning rate as a multiple of the schedule's."""
    update_rms: float = 0.2
    """Root mean square of a matrix update at learning rate 1."""

    def build_update(self, schedule: optax.Schedule, axes: Any) -> optax.GradientTransformation:
        scale = self.matrix_learning_rate_scale
        # `MaskedNode` stands where a partition hides the other's parameters.
        matrices = optax.chain(
            scale_by_muon(
                _map_axes(
                    lambda leaf: leaf if is_orthogonalized(leaf) else optax.MaskedNode(), axes
                ),
                self.momentum,
                self.update_rms,
            ),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(lambda step: scale * schedule(step)),
        )
        rest = self.adamw(
            schedule,
            _map_axes(
                lambda leaf: optax.MaskedNode() if is_orthogonalized(leaf) else is_matrix(leaf),
                axes,
            ),
        )
        labels = _map_axes(lambda leaf: "matrix" if is_orthogonalized(leaf) else "rest", axes)
        return optax.partition({"matrix": _in_scope("muon", matrices), "rest": rest}, labels)


def clip_by_norm(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """Scale gradients with a larger global norm down to it, as `optax.clip_by_global_norm` does.
    The updates take one factor from the norm that a step has already computed (`grad_norm`),
    because clipped gradients would be one more array of all weights to write and read.
    """

    @jax.named_scope("clip_gradients")
    def update(
        updates: Any, state: Any, params: Any = None, *, grad_norm: Any = None, **others: Any
    ) -> tuple[Any, Any]:
        del params, others
        norm = optax.tree.norm(updates) if grad_norm is None else grad_norm
        factor = jnp.minimum(1.0, max_norm / norm)
        return jax.tree.map(lambda grad: grad * factor.astype(grad.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _in_scope(
    name: str, transformation: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Return the same transformation, whose operations have `name` in a profile."""
    update = optax.with_extra_args_support(transformation).update
    return optax.GradientTransformationExtraArgs(transformation.init, jax.named_scope(name)(update))


def is_matrix(axes: Axes) -> bool:
    """Return whether a parameter maps from or to the model's width, or adapts one that does; those
    decay.

    A norm's scale has the axis "norm", and a bias has no "embed" or nothing else. The two matrices
    of an adapter make a matrix together.
    """
    return ("embed" in axes or RANK_AXIS in axes) and len(_own_axes(axes)) >= 2


def is_orthogonalized(axes: Axes) -> bool:
    """Return whether Muon updates a parameter: a matrix inside the blocks.

    Embeddings, heads, norms, biases and adapters get AdamW.
    """
    return "layers" in axes and is_matrix(axes) and RANK_AXIS not in axes


def _own_axes(axes: Axes) -> list[int]:
    """Return the positions of a parameter's axes within one layer and one expert."""
    return [position for position, name in enumerate(axes) if name not in STACKING]


def _map_axes(function: Callable[[Axes], Any], axes: Any) -> Any:
    return jax.tree.map(function, axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
