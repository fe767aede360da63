"""Normalisations: RMSNorm, LayerNorm, and where in a layer they stand.

Axes: ... any leading axes, D the normalised last axis (model width, or head size for QK-norm).
"""

import functools
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.layers.placement import is_in_stage
from jaxgpt.model.layers.projection import LayerSettings, add_param
from jaxgpt.runtime.target import compile_target


@configclass
class Norm:
    """Base of the normalisations."""

    def build(self, size: int, axis: str, settings: LayerSettings, name: str) -> nn.Module:
        """Return a module that maps x [..., size] to the same shape.

        Args:
            size: length of the normalised last axis.
            axis: its logical name.
            settings: dtypes of the model.
            name: name of the module.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build")

    def build_output(self, size: int, settings: LayerSettings, name: str) -> nn.Module | None:
        """Return a module for the output of a sub-layer, before it joins the residual stream."""
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

    def build(self, size: int, axis: str, settings: LayerSettings, name: str) -> nn.Module:
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

    def build(self, size: int, axis: str, settings: LayerSettings, name: str) -> nn.Module:
        return LayerNormLayer(config=self, size=size, axis=axis, settings=settings, name=name)


@configclass
class Sandwich(Norm):
    """The given norm on the input of each sub-layer and again on its output (Gemma 2)."""

    norm: Norm = RmsNorm()
    """Norm used before and after each sub-layer, and once after the last layer."""

    def build(self, size: int, axis: str, settings: LayerSettings, name: str) -> nn.Module:
        return self.norm.build(size, axis, settings, name)

    def build_output(self, size: int, settings: LayerSettings, name: str) -> nn.Module | None:
        return self.norm.build(size, "norm", settings, name)


class RmsNormLayer(nn.Module):
    """RMSNorm over the last axis, computed in float32."""

    config: RmsNorm
    size: int
    axis: str
    settings: LayerSettings

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise [..., D] to the compute dtype."""
        statistics = _Statistics(centred=False, eps=self.config.eps)
        if self.config.learned_scale:
            init = nn.initializers.constant(1.0 - self.config.offset)
            scale = add_param(self, "scale", init, (self.size,), (self.axis,), self.settings)
            wide = jnp.promote_types(x.dtype, jnp.float32)
            y = statistics.scale(x, self.config.offset + scale.astype(wide))
        else:
            y = statistics.normalise(x)
        return y.astype(jnp.dtype(self.settings.compute_dtype))


class LayerNormLayer(nn.Module):
    """LayerNorm over the last axis, computed in float32."""

    config: LayerNorm
    size: int
    axis: str
    settings: LayerSettings

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise [..., D] to the compute dtype."""
        statistics = _Statistics(centred=True, eps=self.config.eps)
        shape, axes = (self.size,), (self.axis,)
        scale = add_param(self, "scale", nn.initializers.ones, shape, axes, self.settings)
        y = statistics.scale(x, scale)
        if self.config.use_bias:
            bias = add_param(self, "bias", nn.initializers.zeros, shape, axes, self.settings)
            y = y + bias.astype(y.dtype)
        return y.astype(jnp.dtype(self.settings.compute_dtype))


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
