"""Activation functions, computed in float32, that keep one array for the backward pass.

Automatic differentiation keeps five arrays of a GELU, three of a SiLU. Here a CPU keeps the
derivative: it would take as long as the matmuls around it, and shares its work with the value, so
the forward pass computes both and the backward pass is one product. `activate` and `gated` keep
what the activation is applied to on other devices, and compute the derivative from it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxgpt.model.layers.dtypes import accumulator_dtype
from jaxgpt.runtime.target import compile_target

Activation = Callable[[jax.Array], jax.Array]
ValueAndDerivative = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def _saves_derivative(value_and_derivative: ValueAndDerivative) -> Callable[[jax.Array], jax.Array]:
    """Make an elementwise function, computed in float32 and returned in the dtype of its input."""

    def evaluate(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, derivative = value_and_derivative(x.astype(accumulator_dtype(x.dtype)))
        return value.astype(x.dtype), derivative.astype(x.dtype)

    @jax.custom_vjp
    def activation(x: jax.Array) -> jax.Array:
        return evaluate(x)[0]

    def backward(derivative: jax.Array, dy: jax.Array) -> Any:
        return (dy * derivative,)

    activation.defvjp(evaluate, backward)
    return activation


def _gelu_tanh(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    # (1 + tanh(u)) / 2 = sigmoid(2 u), whose derivative loses no digits where tanh is near 1.
    c = 2 * math.sqrt(2 / math.pi)
    sigmoid, slope = _sigmoid_and_slope(c * (x + 0.044715 * x * x * x))
    return x * sigmoid, sigmoid + x * slope * c * (1 + 3 * 0.044715 * x * x)


def _gelu_exact(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    cdf = 0.5 * (1 + jax.lax.erf(x / math.sqrt(2)))
    density = jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return x * cdf, cdf + x * density


def _silu(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    sigmoid, slope = _sigmoid_and_slope(x)
    return x * sigmoid, sigmoid + x * slope


def _sigmoid_and_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return `1 / (1 + exp(-x))` and its derivative, from one exponential that cannot overflow."""
    decay = jnp.exp(-jnp.abs(x))
    larger = 1 / (1 + decay)
    smaller = decay * larger
    return jnp.where(x >= 0, larger, smaller), larger * smaller


gelu_tanh = _saves_derivative(_gelu_tanh)
"""GELU with the tanh approximation (Hendrycks and Gimpel 2016, section 2); GPT-2, Gemma."""

gelu_exact = _saves_derivative(_gelu_exact)
"""`x * Phi(x)` with the exact normal distribution function."""

silu = _saves_derivative(_silu)
"""`x * sigmoid(x)`, also called swish; Llama, Qwen."""


def relu_squared(x: jax.Array) -> jax.Array:
    """Return `max(x, 0)^2` (So et al. 2021)."""
    return jnp.square(jax.nn.relu(x))


def activate(activation: Activation, x: jax.Array) -> jax.Array:
    """Return `activation(x)` of a product `x`.

    On a GPU, where bytes count and exponentials do not, the backward pass computes the derivative
    from `x`, which the product has written in any case.
    """
    if compile_target().is_cpu:
        return activation(x)
    return cast(jax.Array, _activated(activation, x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _activated(activation: Activation, x: jax.Array) -> jax.Array:
    return activation(x)


def _activated_backward(activation: Activation, x: jax.Array, dy: jax.Array) -> Any:
    # Without the barrier XLA finds what the forward pass computed, and keeps it.
    _, pull_back = jax.vjp(activation, jax.lax.optimization_barrier(x))
    return pull_back(dy)


_activated.defvjp(lambda activation, x: (activation(x), x), _activated_backward)


def gated(activation: Activation, gate: jax.Array, up: jax.Array) -> jax.Array:
    """Return `activation(gate) * up`.

    On a GPU the backward pass computes the activation again, as in `activate`. It reads three
    arrays and writes two, and the forward pass keeps nothing but its inputs.
    """
    if compile_target().is_cpu:
        return activation(gate) * up
    return cast(jax.Array, _gated(activation, gate, up))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gated(activation: Activation, gate: jax.Array, up: jax.Array) -> jax.Array:
    return activation(gate) * up


def _gated_forward(activation: Activation, gate: jax.Array, up: jax.Array) -> Any:
    return _gated(activation, gate, up), (gate, up)


def _gated_backward(activation: Activation, saved: Any, dy: jax.Array) -> Any:
    # Without the barrier XLA finds what the forward pass computed, and keeps it.
    gate, up = jax.lax.optimization_barrier(saved)
    value, pull_back = jax.vjp(activation, gate)
    return *pull_back(dy * up), dy * value


_gated.defvjp(_gated_forward, _gated_backward)
