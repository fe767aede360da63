"""Normalisations: RMSNorm, LayerNorm, and where in a layer they stand.

Axes: ... any leading axes, D the normalised last axis (model width, or head size for QK-norm).
"""

import functools
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.layers.norm_kernel import (
    NormSettings,
    normalise,
    normalise_backward,
    refuses_norm_kernel,
)
from jaxgpt.model.layers.placement import is_in_stage
from jaxgpt.model.layers.projection import LayerSettings, add_param
from jaxgpt.runtime.target import compile_target


@configclass
class Norm:
    """Base of the normalisations."""

    def build(self, size: int, axis: str, settings: LayerSettings, name: str) -> "NormLayer":
        """Return a `NormLayer`, a module that maps x [..., size] to the same shape.

        Args:
            size: length of the normalised last axis.
            axis: its logical name.
            settings: dtypes of the model.
            name: name of the module.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build")

    def build_output(self, size: int, settings: LayerSettings, name: str) -> "NormLayer | None":
        """Return a `NormLayer` for what a sub-layer adds to the residual stream; None for none."""
        return None


@configclass
class RmsNorm(Norm):
    """`x / sqrt(mean(x^2) + eps) * (offset + scale)` (Zhang and Sennrich 2019)."""

    eps: float = 1e-6
    """Constant added to the mean square."""
    offset: float = 0.0
    """Constant added to the learned scale: 1 for Gemma, where a scale of 0 is the identity."""
    learned_scale: bool = True
    """Learned scale; False: none."""

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ValueError(f"eps must be positive, not {self.eps}")

    def build(self, size: int, axis: str, settings: LayerSettings, name: str) -> "NormLayer":
        return RmsNormLayer(config=self, size=size, axis=axis, settings=settings, name=name)


@configclass
class LayerNorm(Norm):
    """`(x - mean(x)) / sqrt(var(x) + eps) * scale + bias` (Ba et al. 2016)."""

    eps: float = 1e-5
    """Constant added to the variance."""
    use_bias: bool = True
    """Learned bias; False: none."""

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ValueError(f"eps must be positive, not {self.eps}")

    def build(self, size: int, axis: str, settings: LayerSettings, name: str) -> "NormLayer":
        return LayerNormLayer(config=self, size=size, axis=axis, settings=settings, name=name)


@configclass
class Sandwich(Norm):
    """The given norm on the input of each sub-layer and again on its output (Gemma 2)."""

    norm: Norm = RmsNorm()
    """Norm used before and after each sub-layer, and once after the last layer."""

    def build(self, size: int, axis: str, settings: LayerSettings, name: str) -> "NormLayer":
        return self.norm.build(size, axis, settings, name)

    def build_output(self, size: int, settings: LayerSettings, name: str) -> "NormLayer":
        return self.norm.build(size, "norm", settings, name)


class NormFormula(NamedTuple):
    """Norm with its parameters, as plain JAX.

    Attributes:
        statistics: settings of the normalisation.
        dtype: type of the result.
        scale_D: factor of the normalised numbers; None for none.
        offset: added to the scale; None for nothing.
        bias_D: added to the product; None for nothing.
    """

    statistics: "_Statistics"
    dtype: Any
    scale_D: jax.Array | None
    offset: float | None = None
    bias_D: jax.Array | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise [..., D]."""
        scale_D, bias_D = self.factor(x), self.bias_D
        y = self.statistics.normalise(x) if scale_D is None else self.statistics.scale(x, scale_D)
        return (y if bias_D is None else y + bias_D.astype(y.dtype)).astype(self.dtype)

    def factor(self, x: jax.Array) -> jax.Array | None:
        """Return what the normalised numbers of `x` are multiplied with, [D]; None for nothing."""
        if self.scale_D is None or self.offset is None:
            return self.scale_D
        return self.offset + self.scale_D.astype(jnp.promote_types(x.dtype, jnp.float32))


class NormLayer(nn.Module):
    """Base of the modules that normalise the last axis, computed in float32."""

    size: int
    axis: str
    settings: LayerSettings

    def formula(self) -> NormFormula:
        """Return the norm with this module's parameters."""
        raise NotImplementedError(f"{type(self).__name__} has no formula")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise [..., D] to the compute dtype."""
        return _normalise(self.formula(), x, returns_input=False)[1]

    def with_input(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return `x` and its norm; a kernel for GPUs adds up the gradients of both."""
        return _normalise(self.formula(), x, returns_input=True)


class RmsNormLayer(NormLayer):
    """RMSNorm."""

    config: RmsNorm

    @nn.compact
    def formula(self) -> NormFormula:
        statistics = _Statistics(centred=False, eps=self.config.eps)
        dtype, offset = jnp.dtype(self.settings.compute_dtype), self.config.offset
        if not self.config.learned_scale:
            return NormFormula(statistics, dtype, None)
        init = nn.initializers.constant(1.0 - offset)
        scale = add_param(self, "scale", init, (self.size,), (self.axis,), self.settings)
        return NormFormula(statistics, dtype, scale, offset)


class LayerNormLayer(NormLayer):
    """LayerNorm."""

    config: LayerNorm

    @nn.compact
    def formula(self) -> NormFormula:
        shape, axes, bias = (self.size,), (self.axis,), None
        scale = add_param(self, "scale", nn.initializers.ones, shape, axes, self.settings)
        if self.config.use_bias:
            bias = add_param(self, "bias", nn.initializers.zeros, shape, axes, self.settings)
        statistics = _Statistics(centred=True, eps=self.config.eps)
        return NormFormula(statistics, jnp.dtype(self.settings.compute_dtype), scale, bias_D=bias)


class _Statistics(NamedTuple):
    """Settings of a normalisation of the last axis.

    Attributes:
        centred: whether the mean is subtracted.
        eps: added to the mean square of the rest.
    """

    centred: bool
    eps: float

    def normalise(self, x: jax.Array) -> jax.Array:
        """Return [..., D] in float32 or wider, with mean square 1 over the last axis."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.centred:
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)

    def scale(self, x: jax.Array, scale_D: jax.Array) -> jax.Array:
        """Return `normalise(x) * scale_D`.

        On a GPU the scale's gradient is a kernel of its own. Left to XLA, the kernel that
        normalises writes the terms in float32, which are twice the bytes that they are made of.
        """
        if compile_target().platform != "gpu" or is_in_stage():
            x = self.normalise(x)
            return x * scale_D.astype(x.dtype)
        return cast(jax.Array, _scale(self, x, scale_D))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scale(statistics: _Statistics, x: jax.Array, scale_D: jax.Array) -> jax.Array:
    x = statistics.normalise(x)
    return x * scale_D.astype(x.dtype)


def _scale_backward(statistics: _Statistics, saved: Any, dy: jax.Array) -> Any:
    x, scale_D = saved
    _, pull = jax.vjp(statistics.normalise, x)
    (dx,) = pull(dy * scale_D.astype(dy.dtype))
    wide = x.astype(dy.dtype)
    # Both moments in one pass. Taken from a number of the row they cancel little: its squared
    # distance from the mean is at most D times the variance.
    start = wide[..., :1] if statistics.centred else jnp.zeros_like(wide[..., :1])
    distance = wide - start
    mean = jnp.mean(distance, axis=-1, keepdims=True) if statistics.centred else start
    mean_square = jnp.mean(distance * distance, axis=-1, keepdims=True)
    variance = jnp.maximum(mean_square - mean * mean, 0)
    # Behind the barrier these are two numbers of each row, and the sum below reads `x` and `dy`.
    shift, factor = jax.lax.optimization_barrier(
        (start + mean, jax.lax.rsqrt(variance + statistics.eps))
    )
    dscale_D = jnp.sum(dy * (wide - shift) * factor, axis=tuple(range(x.ndim - 1)))
    return dx, dscale_D.astype(scale_D.dtype)


def _scale_forward(statistics: _Statistics, x: jax.Array, scale_D: jax.Array) -> Any:
    return _scale(statistics, x, scale_D), (x, scale_D)


_scale.defvjp(_scale_forward, _scale_backward)


def _normalise(formula: NormFormula, x: jax.Array, returns_input: bool) -> Any:
    """Return `x`, None unless `returns_input`, and its norm."""
    if formula.scale_D is None or refuses_norm_kernel(x):
        return (x if returns_input else None), formula(x)
    (centred, eps), bias_D = formula.statistics, formula.bias_D
    settings = NormSettings(centred, eps, bias_D is not None, formula.dtype)
    return _by_kernel(settings, returns_input, x, formula.factor(x), bias_D)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_kernel(
    settings: NormSettings, returns_input: bool, x: jax.Array, scale_D: jax.Array, bias_D: Any
) -> Any:
    # Without a gradient: XLA makes as few kernels, or fewer.
    statistics = _Statistics(settings.centred, settings.eps)
    y = NormFormula(statistics, settings.dtype, scale_D, bias_D=bias_D)(x)
    return (x if returns_input else None), y


def _by_kernel_forward(
    settings: NormSettings, returns_input: bool, x: jax.Array, scale_D: jax.Array, bias_D: Any
) -> Any:
    x, y = normalise(settings, x, scale_D, bias_D)
    return ((x if returns_input else None), y), (x, scale_D, bias_D)


def _by_kernel_backward(settings: NormSettings, _: bool, saved: Any, cotangents: Any) -> Any:
    x, scale_D, bias_D = saved
    dx, *sums = normalise_backward(settings, x, scale_D, *cotangents)
    rounded = [dsum.astype(p.dtype) for dsum, p in zip(sums, (scale_D, bias_D), strict=False)]
    return dx, rounded[0], (rounded[1] if rounded[1:] else None)


_by_kernel.defvjp(_by_kernel_forward, _by_kernel_backward)
