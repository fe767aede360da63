"""Averages of the weights over steps, which generalise better than the last weights.

The average is part of the optimiser's state, so it is placed, saved, skipped and resumed with it. A
checkpoint's parameters are the averaged ones, so evaluation, generation and export need no code for
averages.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgpt.config import configclass
from jaxgpt.model.layers.dtypes import accumulator_dtype


class AverageState(NamedTuple):
    """State of an optimiser that averages.

    Attributes:
        inner: the optimiser's own.
        average: like the parameters, at least float32.
        count: int32 scalar, updates averaged.
    """

    inner: Any
    average: Any
    count: jax.Array


@configclass
class Averaging:
    """Base of the kinds of averaging; choose `NoAveraging` or `ExponentialAverage`."""

    def wrap(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """Return the optimiser with the average in its state; its updates stay as they are."""
        raise TypeError("choose an averaging: NoAveraging or ExponentialAverage")

    def weights(self, trainable: Any, opt_state: Any) -> Any:
        """Return the parameters to evaluate and use the model with."""
        return trainable

    def to_stored(self, trainable: Any, opt_state: Any) -> tuple[Any, dict[str, Any]]:
        """Return the content of a checkpoint: the parameters of the model, and the rest by name."""
        return trainable, {"opt_state": opt_state}

    def from_stored(self, params: Any, rest: dict[str, Any]) -> tuple[Any, Any]:
        """Return (trainable, opt_state); the inverse of `to_stored`."""
        return params, rest["opt_state"]


@configclass
class NoAveraging(Averaging):
    """The weights of the last step."""

    def wrap(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """See `Averaging.wrap`."""
        return optimizer


@configclass
class ExponentialAverage(Averaging):
    """`a = d a + (1 - d) w` after each step (Polyak and Juditsky 1992; arXiv:1710.10741).

    In step n the decay d is at most (n + 1) / (n + 10), so that the random weights of the start are
    soon forgotten.
    """

    decay: float = 0.999
    """Decay of the average per step: 0.999 averages over some 1,000 steps."""

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise ValueError(f"decay={self.decay} must lie between 0 and 1")

    def wrap(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """See `Averaging.wrap`."""

        def init(params: Any) -> AverageState:
            average = jax.tree.map(lambda leaf: leaf.astype(accumulator_dtype(leaf.dtype)), params)
            return AverageState(optimizer.init(params), average, jnp.zeros((), jnp.int32))

        inner_update = optax.with_extra_args_support(optimizer).update

        def update(updates: Any, state: Any, params: Any = None, **others: Any) -> Any:
            updates, inner = inner_update(updates, state.inner, params, **others)
            share = 1 - jnp.minimum(self.decay, (state.count + 1) / (state.count + 10))

            def follow(average: jax.Array, leaf: jax.Array) -> jax.Array:
                return average + share.astype(average.dtype) * (leaf - average)

            average = jax.tree.map(follow, state.average, optax.apply_updates(params, updates))
            return updates, AverageState(inner, average, state.count + 1)

        return optax.GradientTransformationExtraArgs(init, update)

    def weights(self, trainable: Any, opt_state: AverageState) -> Any:
        """See `Averaging.weights`."""
        return jax.tree.map(
            lambda average, leaf: average.astype(leaf.dtype), opt_state.average, trainable
        )

    def to_stored(self, trainable: Any, opt_state: AverageState) -> tuple[Any, dict[str, Any]]:
        """See `Averaging.to_stored`."""
        rest = {"opt_state": opt_state.inner, "averaged": opt_state.count, "trainable": trainable}
        return opt_state.average, rest

    def from_stored(self, params: Any, rest: dict[str, Any]) -> tuple[Any, Any]:
        """See `Averaging.from_stored`."""
        return rest["trainable"], AverageState(rest["opt_state"], params, rest["averaged"])
