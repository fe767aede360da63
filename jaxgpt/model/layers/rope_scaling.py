"""Stretching rotary positions to contexts longer than those a model was trained on.

Each variant turns the plain frequencies `max_wavelength^(-2i/H)` into others; NumPy float64, since
they are constants of the model. Axes: R = H / 2 rotation planes.
"""

import math

import numpy as np

from jaxgpt.config import configclass


def plain_frequencies(head_dim: int, max_wavelength: float) -> np.ndarray:
    """Return `max_wavelength^(-2i/H)` radians per token, float64 [R]."""
    return max_wavelength ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


@configclass
class RopeScaling:
    """Base of the scaling variants."""

    def frequencies(self, head_dim: int, max_wavelength: float) -> tuple[np.ndarray, float]:
        """Return radians per token of each plane, float32 [R], and a factor for cos and sin."""
        raise NotImplementedError(f"{type(self).__name__} has no frequencies")


@configclass
class NoScaling(RopeScaling):
    """Plain rotary positions."""

    def frequencies(self, head_dim: int, max_wavelength: float) -> tuple[np.ndarray, float]:
        return plain_frequencies(head_dim, max_wavelength).astype(np.float32), 1.0


@configclass
class LinearScaling(RopeScaling):
    """Position interpolation: all frequencies divided by `factor` (Chen et al. 2023)."""

    factor: float = 2.0
    """New context length over the one trained on."""

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def frequencies(self, head_dim: int, max_wavelength: float) -> tuple[np.ndarray, float]:
        scaled = plain_frequencies(head_dim, max_wavelength) / self.factor
        return scaled.astype(np.float32), 1.0


@configclass
class Llama3(RopeScaling):
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between."""

    factor: float = 8.0
    """New context length over the one trained on."""
    low_frequency_factor: float = 1.0
    """Wavelengths above original_length over this are fully interpolated."""
    high_frequency_factor: float = 4.0
    """Wavelengths below original_length over this are kept."""
    original_length: int = 8192
    """Context length trained on, in tokens."""

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        _check_length(self.original_length)
        if not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise ValueError(
                "low_frequency_factor must be positive and below high_frequency_factor, not "
                f"{self.low_frequency_factor} and {self.high_frequency_factor}"
            )

    def frequencies(self, head_dim: int, max_wavelength: float) -> tuple[np.ndarray, float]:
        plain_R = plain_frequencies(head_dim, max_wavelength)
        turns_R = self.original_length * plain_R / (2 * math.pi)
        span = self.high_frequency_factor - self.low_frequency_factor
        keep_R = np.clip((turns_R - self.low_frequency_factor) / span, 0.0, 1.0)
        scaled_R = keep_R * plain_R + (1 - keep_R) * plain_R / self.factor
        return scaled_R.astype(np.float32), 1.0


@configclass
class Yarn(RopeScaling):
    """YaRN: planes that turn often are kept, slow ones interpolated, scores sharpened.

    Peng et al. 2023, equations 17-22: plane i is kept if it makes more than `fast_turns` turns
    over the original context, interpolated below `slow_turns`, blended linearly in i between.
    """

    factor: float = 4.0
    """New context length over the one trained on."""
    original_length: int = 4096
    """Context length trained on, in tokens."""
    fast_turns: float = 32.0
    """Turns over the original context above which a plane is kept (beta fast)."""
    slow_turns: float = 1.0
    """Turns over the original context below which a plane is interpolated (beta slow)."""
    attention_factor: float | None = None
    """Factor for cos and sin; None for the paper's 0.1 ln(factor) + 1."""

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        _check_length(self.original_length)
        if not 0 < self.slow_turns < self.fast_turns:
            raise ValueError(
                "slow_turns must be positive and below fast_turns, not "
                f"{self.slow_turns} and {self.fast_turns}"
            )

    def frequencies(self, head_dim: int, max_wavelength: float) -> tuple[np.ndarray, float]:
        plain_R = plain_frequencies(head_dim, max_wavelength)

        def plane_with_turns(turns: float) -> float:
            wavelength = self.original_length / turns
            return head_dim * math.log(wavelength / (2 * math.pi)) / (2 * math.log(max_wavelength))

        low = max(math.floor(plane_with_turns(self.fast_turns)), 0)
        high = min(math.ceil(plane_with_turns(self.slow_turns)), head_dim - 1)
        planes_R = np.arange(head_dim // 2, dtype=np.float64)
        # A ramp of no width is a step; 0.001 is the published code's choice.
        interpolate_R = np.clip((planes_R - low) / max(high - low, 0.001), 0.0, 1.0)
        scaled_R = interpolate_R * plain_R / self.factor + (1 - interpolate_R) * plain_R
        factor = self.attention_factor
        if factor is None:
            factor = 0.1 * math.log(self.factor) + 1.0
        return scaled_R.astype(np.float32), factor


def _check_factor(factor: float) -> None:
    if not factor >= 1:
        raise ValueError(f"factor must be at least 1, not {factor}")


def _check_length(original_length: int) -> None:
    if original_length < 1:
        raise ValueError(f"original_length must be at least 1, not {original_length}")
