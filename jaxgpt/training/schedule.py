"""Learning-rate schedules: the rate of each step, as shares of the run.

Warm-up and decay are shares, so `--schedule.num-steps N` alone is always valid.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgpt.config import configclass


@configclass
class Schedule:
    """Warm-up from 0 to the peak, then the decay of the subclass."""

    num_steps: int = 1000
    """Optimiser steps of the run."""
    peak_learning_rate: float = 3e-4
    """Highest learning rate, reached at the end of the warm-up."""
    warmup_share: float = 0.02
    """Share of the steps in which the learning rate rises linearly from 0."""
    final_share: float = 0.1
    """Learning rate at the end of the decay, one step after the last, as a share of the peak."""

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps={self.num_steps} must be at least 1")
        if self.peak_learning_rate <= 0:
            raise ValueError(f"peak_learning_rate={self.peak_learning_rate} must be positive")
        for name in ("warmup_share", "final_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1]")

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup_share * self.num_steps)

    def build(self) -> optax.Schedule:
        """Return the rate as a function of the step, counted from 0.

        Step 0 already has a rate above 0: the warm-up is (step + 1) / warmup_steps of the peak.
        """
        warmup, peak = self.warmup_steps, self.peak_learning_rate
        after = self.build_after_warmup(max(self.num_steps - warmup, 1))
        if warmup == 0:
            return after
        rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
        return optax.join_schedules([rise, after], [warmup])

    def values(self) -> np.ndarray:
        """Return the rate of every step, float32 [num_steps], computed at once for the logs."""
        schedule = self.build()
        rates = jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32))
        return np.asarray(jax.jit(rates)(jnp.arange(self.num_steps)))

    def build_after_warmup(self, num_steps: int) -> optax.Schedule:
        """Return the rate over the `num_steps` that follow the warm-up."""
        raise TypeError("choose a schedule: Cosine, LinearDecay, Constant or WarmupStableDecay")


@configclass
class Cosine(Schedule):
    """Half a cosine down to the final share (SGDR without restarts, arXiv:1608.03983)."""

    def build_after_warmup(self, num_steps: int) -> optax.Schedule:
        return optax.cosine_decay_schedule(self.peak_learning_rate, num_steps, self.final_share)


@configclass
class LinearDecay(Schedule):
    """A straight line down to the final share."""

    def build_after_warmup(self, num_steps: int) -> optax.Schedule:
        peak = self.peak_learning_rate
        return optax.linear_schedule(peak, peak * self.final_share, num_steps)


@configclass
class Constant(Schedule):
    """The peak until the end; `final_share` is not used."""

    def build_after_warmup(self, num_steps: int) -> optax.Schedule:
        return optax.constant_schedule(self.peak_learning_rate)


@configclass
class WarmupStableDecay(Schedule):
    """The peak, then a straight line down in the last share (WSD, arXiv:2404.06395)."""

    decay_share: float = 0.2
    """Share of the steps in which the learning rate falls."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay_share <= 1 - self.warmup_share + 1e-9:
            raise ValueError(
                f"decay_share={self.decay_share} must lie in (0, 1 - warmup_share = "
                f"{1 - self.warmup_share:g}]"
            )

    def build_after_warmup(self, num_steps: int) -> optax.Schedule:
        peak, decay = self.peak_learning_rate, max(round(self.decay_share * self.num_steps), 1)
        stable = optax.constant_schedule(peak)
        fall = optax.linear_schedule(peak, peak * self.final_share, decay)
        return optax.join_schedules([stable, fall], [max(num_steps - decay, 0)])
