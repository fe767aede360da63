"""Rematerialisation: what the backward pass keeps from the forward pass, and what it recomputes.

Changes memory and time, never a number's meaning.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxgpt.config import configclass
from jaxgpt.model.layers.projection import PROJECTION

ApplyLayer = Callable[..., Any]


@configclass
class Remat:
    """Base of the policies."""

    def wrap(self, apply_layer: ApplyLayer) -> ApplyLayer:
        """Return a function like `apply_layer`, a whole layer, that keeps what the policy says."""
        raise NotImplementedError(f"{type(self).__name__} has no wrap")


@configclass
class NoRemat(Remat):
    """Keep everything: fastest, if it fits."""

    def wrap(self, apply_layer: ApplyLayer) -> ApplyLayer:
        return apply_layer


@configclass
class FullRemat(Remat):
    """Keep each layer's input only: least memory, one more forward pass (Chen et al. 2016)."""

    def wrap(self, apply_layer: ApplyLayer) -> ApplyLayer:
        return jax.checkpoint(apply_layer)


@configclass
class SaveDots(Remat):
    """Keep the results of weight matmuls, recompute the rest (attention and elementwise work)."""

    def wrap(self, apply_layer: ApplyLayer) -> ApplyLayer:
        # By name: policies that look for matmuls see none inside a hand-written gradient.
        policy = jax.checkpoint_policies.save_only_these_names(PROJECTION)
        return jax.checkpoint(apply_layer, policy=policy)
