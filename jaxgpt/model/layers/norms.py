"""Normalisations: RMSNorm, LayerNorm, and where in a layer they stand.

Axes: ... any leading axes, D the normalised last axis (model width, or head size for QK-norm).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.layers.projection import LayerSettings, add_param


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
        """See `Norm.build`."""
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
        """See `Norm.build`."""
        return LayerNormLayer(config=self, size=size, axis=axis, settings=settings, name=name)


@configclass
class Sandwich(Norm):
    """The given norm on the input of each sub-layer and again on its output (Gemma 2)."""

    norm: Norm = RmsNorm()
    """Norm used before and after each sub-layer, and once after the last layer."""

    def build(self, size: int, axis: str, settings: LayerSettings, name: str) -> nn.Module:
        """See `Norm.build`."""
        return self.norm.build(size, axis, settings, name)

    def build_output(self, size: int, settings: LayerSettings, name: str) -> nn.Module | None:
        """See `Norm.build_output`."""
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
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        y = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.config.eps)
        if self.config.learned_scale:
            init = nn.initializers.constant(1.0 - self.config.offset)
            scale = add_param(self, "scale", init, (self.size,), (self.axis,), self.settings)
            y = y * (self.config.offset + scale.astype(y.dtype))
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
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        y = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.config.eps)
        shape, axes = (self.size,), (self.axis,)
        scale = add_param(self, "scale", nn.initializers.ones, shape, axes, self.settings)
        y = y * scale.astype(y.dtype)
        if self.config.use_bias:
            bias = add_param(self, "bias", nn.initializers.zeros, shape, axes, self.settings)
            y = y + bias.astype(y.dtype)
        return y.astype(jnp.dtype(self.settings.compute_dtype))
