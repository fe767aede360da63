"""Positions: how the model knows the order of tokens.

A variant either adds something to the token embeddings (`build`) or turns queries and keys
(`rotation`), or does nothing.

Axes: B batch, T time, D model, N heads, H head, R = H / 2 rotation planes.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.errors import ConfigError
from jaxgpt.model.cpu.cos_and_sin import cos_and_sin
from jaxgpt.model.layers.embedding import Embedding
from jaxgpt.model.layers.projection import LayerSettings
from jaxgpt.model.layers.rope_scaling import NoScaling, RopeScaling
from jaxgpt.runtime.target import compile_target


class Rotation(NamedTuple):
    """Angles by which queries and keys are turned; float32."""

    cos_BTR: jax.Array
    sin_BTR: jax.Array


@configclass
class Position:
    """Base of the position variants."""

    def check_head_dim(self, head_dim: int) -> None:
        """Raise ValueError if heads of this size cannot carry these positions."""

    def check_length(self, num_positions: int) -> None:
        """Raise ConfigError if sequences of this length have positions this variant lacks."""

    def build(self, settings: LayerSettings, name: str) -> nn.Module | None:
        """Return a module (x_BTD, positions_BT) -> x_BTD applied to the embeddings, or None."""
        return None

    def rotation(self, positions_BT: jax.Array, head_dim: int) -> Rotation | None:
        """Return the angles for queries and keys at these positions, or None."""
        return None


@configclass
class NoPosition(Position):
    """No positions: the causal mask alone tells order (Kazemnejad et al. 2023)."""


@configclass
class Rotary(Position):
    """Turns plane i of each head by `position / max_wavelength^(2i/H)` (Su et al. 2021).

    Planes pair element i with element i + H/2, as in Llama's published weights.
    """

    max_wavelength: float = 10_000.0
    """Base of the geometric series of wavelengths (rope theta)."""
    scaling: RopeScaling = NoScaling()
    """Stretching of the wavelengths for contexts longer than the model was trained on."""

    def __post_init__(self) -> None:
        if not self.max_wavelength > 1:
            raise ValueError(f"max_wavelength must be above 1, not {self.max_wavelength}")

    def check_head_dim(self, head_dim: int) -> None:
        if head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, not {head_dim}")

    @jax.named_scope("rotary")
    def rotation(self, positions_BT: jax.Array, head_dim: int) -> Rotation:
        frequencies_R, amplitude = self.scaling.frequencies(head_dim, self.max_wavelength)
        angles_BTR = positions_BT[:, :, None].astype(jnp.float32) * frequencies_R
        if compile_target().is_cpu and angles_BTR.shape[1] > 1:
            cos_BTR, sin_BTR = cos_and_sin(angles_BTR)
        else:
            cos_BTR, sin_BTR = jnp.cos(angles_BTR), jnp.sin(angles_BTR)
        return Rotation(amplitude * cos_BTR, amplitude * sin_BTR)


@configclass
class Sinusoidal(Position):
    """Adds fixed sines and cosines of geometric wavelengths (Vaswani et al. 2017, section 3.5)."""

    max_wavelength: float = 10_000.0
    """Longest wavelength, over 2 pi."""
    amplitude: float = 0.02
    """Amplitude of the waves, about the size of initial embeddings so that neither hides the
    other."""

    def __post_init__(self) -> None:
        if not self.max_wavelength > 1:
            raise ValueError(f"max_wavelength must be above 1, not {self.max_wavelength}")
        if not self.amplitude > 0:
            raise ValueError(f"amplitude must be positive, not {self.amplitude}")

    def build(self, settings: LayerSettings, name: str) -> nn.Module:
        return SinusoidalLayer(config=self, name=name)


@configclass
class Learned(Position):
    """Adds a learned vector per position (GPT-2)."""

    max_length: int = 1024
    """Number of learned positions; longer sequences are refused."""

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, not {self.max_length}")

    def check_length(self, num_positions: int) -> None:
        if num_positions > self.max_length:
            raise ConfigError(
                f"a sequence of {num_positions} tokens needs more than the {self.max_length} "
                "learned positions of this model; shorten it, or train with a larger "
                "position.max_length or rotary positions"
            )

    def build(self, settings: LayerSettings, name: str) -> nn.Module:
        return LearnedLayer(config=self, settings=settings, name=name)


class SinusoidalLayer(nn.Module):
    """Adds the waves; has no parameters."""

    config: Sinusoidal

    @nn.compact
    def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """Return x_BTD plus sines in its first half and cosines in its second."""
        d_model = x_BTD.shape[-1]
        num_waves = (d_model + 1) // 2
        step = math.log(self.config.max_wavelength) / max(num_waves - 1, 1)
        frequencies = jnp.exp(-step * jnp.arange(num_waves, dtype=jnp.float32))
        angles = positions_BT[:, :, None].astype(jnp.float32) * frequencies
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[..., :d_model]
        return x_BTD + (self.config.amplitude * waves).astype(x_BTD.dtype)


class LearnedLayer(nn.Module):
    """Adds a row of a learned table."""

    config: Learned
    settings: LayerSettings

    @nn.compact
    def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """Return x_BTD plus the vectors of its positions."""
        self.config.check_length(x_BTD.shape[1])
        table = Embedding(
            num_rows=self.config.max_length,
            axes=("positions", "embed"),
            std=self.settings.initialization.std,
            # An adapter changes rows of tokens, not of positions.
            settings=self.settings.without_adapter,
            name="embedding",
        )
        return x_BTD + table(positions_BT)


@jax.named_scope("rotary")
def rotate(x_BTNH: jax.Array, rotation: Rotation) -> jax.Array:
    """Turn each head's planes (i, i + H/2) by their angles; computed in float32."""
    cos_BT1R, sin_BT1R = rotation.cos_BTR[:, :, None, :], rotation.sin_BTR[:, :, None, :]
    first, second = jnp.split(x_BTNH.astype(cos_BT1R.dtype), 2, axis=-1)
    turned = jnp.concatenate(
        [first * cos_BT1R - second * sin_BT1R, second * cos_BT1R + first * sin_BT1R], axis=-1
    )
    return turned.astype(x_BTNH.dtype)
