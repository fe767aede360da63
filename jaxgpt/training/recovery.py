"""Decide which updates a run skips: losses and gradients that are not finite, or far off.

The decision is made on the device, inside the step: a refused update leaves parameters and
optimiser as if the batch had not been there, and no step waits for the host. The decision needs the
losses and gradient norms of recent accepted steps, which are part of the train state and of every
checkpoint. Rollbacks after repeated refusals are in rollback.py.

Axes: W steps of the window; 2: loss, gradient norm.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.config import configclass
from jaxgpt.training.rollback import rollback_step

# A value counts as far off only if it is so by this share of the mean, too: equal losses have no
# spread at all, and nearly equal ones have one of rounding.
_LEAST_SPREAD = 1e-3
# Gradient norms of healthy runs reach twice their mean now and then, however small their spread;
# clipping bounds what such an update can do.
_USUAL_TIMES_THE_MEAN_NORM = 3.0
# A spike of a batch, not of the parameters, is let through when one of its size has stood alone
# before: up to this much higher above the mean, but not where no text can be the reason. No text
# costs 16 nats a token, as many as one of nine million ids drawn at random.
_TOLERANCE = 1.25
_MOST_NATS = 16.0
_MOST_TIMES_THE_MEAN_NORM = 10.0


class Skips(NamedTuple):
    """Skipped updates: scalars, on the device or read from it.

    Attributes:
        now: 1 if this step's update was skipped, else 0; int32, like the next three.
        in_a_row: number of consecutive skipped updates up to this step.
        in_window: number of skipped updates among the last W steps.
        total: number of skipped updates of the whole run.
        loss_limit: largest loss that this step was allowed; float32, infinity for no limit.
        grad_norm_limit: largest gradient norm that it was allowed.
    """

    now: Any = 0
    in_a_row: Any = 0
    in_window: Any = 0
    total: Any = 0
    loss_limit: Any = math.inf
    grad_norm_limit: Any = math.inf

    def why(self, loss: float, grad_norm: float) -> str:
        """Say which limit a skipped step exceeded, and by how much."""
        reasons = []
        for name, value, limit in (
            ("loss", loss, self.loss_limit),
            ("gradient norm", grad_norm, self.grad_norm_limit),
        ):
            if not math.isfinite(value):
                reasons.append(f"{name} {value} is not finite")
            elif value > limit:
                reasons.append(f"{name} {value:.4g} exceeds its limit {limit:.4g}")
        return " and ".join(reasons)


@configclass
class Recovery:
    """Treatment of harmful updates; choose `SkipSpikes` or `NoSkipping`."""

    def rollback_step(self, steps: Sequence[int], now: int, num_rollbacks: int) -> int | None:
        """Return the step that an unstable run rolls back to; None if it must end.

        Args:
            steps: those that can be restored.
            now: steps done.
            num_rollbacks: number of earlier rollbacks.
        """
        return None

    def init(self) -> dict[str, jax.Array]:
        """Return the memory that is passed from step to step, before the first one."""
        return {}

    def accept(
        self, memory: dict[str, jax.Array], step: jax.Array, loss: jax.Array, grad_norm: jax.Array
    ) -> tuple[jax.Array | bool, dict[str, jax.Array], Skips]:
        """Decide, inside the compiled step, whether its update is applied.

        Args:
            memory: as `init` or the step before returned it.
            step: int32 scalar, steps done before this one.
            loss: float32 scalar of this step.
            grad_norm: float32 scalar, before clipping.

        Returns:
            Whether the update is accepted, the memory after this step, and what was skipped.
        """
        raise TypeError("choose a recovery: SkipSpikes or NoSkipping")

    def stop_reason(self, loss: float, grad_norm: float, skips: Skips) -> str | None:
        """Return, on the host, why a run must not continue after a step; None if it may."""
        raise TypeError("choose a recovery: SkipSpikes or NoSkipping")

    def is_level(self, skips: Skips, num_steps: int) -> bool:
        """Return whether the refusals in the `num_steps` steps since a start show another level."""
        return False

    def state_to_json(self, memory: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return the memory as JSON values, exactly."""
        return {name: np.asarray(value).tolist() for name, value in memory.items()}

    def state_from_json(
        self, values: Mapping[str, Any], is_usual: bool = True
    ) -> dict[str, np.ndarray]:
        """Return the memory that `state_to_json` was given.

        Values stored under other settings start again, and so do those that are no longer usual.

        Args:
            values: what `state_to_json` returned.
            is_usual: whether the usual values still hold: the same objective on the same text.
        """
        memory = {name: np.asarray(value) for name, value in self.init().items()}
        read = {
            name: np.asarray(values[name], memory[name].dtype) for name in memory.keys() & values
        }
        same = is_usual and all(read[name].shape == memory[name].shape for name in read)
        # The number of skipped steps is true whatever the window: the learning rate follows it.
        return memory | {name: read[name] for name in read if same or name == "total"}


@configclass
class NoSkipping(Recovery):
    """Apply every update; a loss or gradient that is not finite ends the run."""

    def accept(
        self, memory: dict[str, jax.Array], step: jax.Array, loss: jax.Array, grad_norm: jax.Array
    ) -> tuple[jax.Array | bool, dict[str, jax.Array], Skips]:
        return True, memory, Skips()

    def stop_reason(self, loss: float, grad_norm: float, skips: Skips) -> str | None:
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return None
        return f"loss {loss}, gradient norm {grad_norm}"


@configclass
class SkipSpikes(Recovery):
    """Leave out updates whose loss or gradient norm is not finite or a spike.

    A spike lies more than `sigmas` standard deviations above the mean of the last `window` accepted
    steps, and a norm above three times that mean, too. If many updates are skipped, the run rolls
    back to an older checkpoint and skips the batches since (as for PaLM, arXiv:2204.02311, section
    5.1).

    A large gradient under a usual loss is refused, too, but remembered: gradient norms of a healthy
    run can rise for good within a few steps, and must become usual then. A spike that stands alone
    is the batch's: refused once, it is let through when one of its size comes again.
    """

    window: int = 128
    """Number of accepted steps whose losses and gradient norms are remembered."""
    sigmas: float = 6.0
    """Number of standard deviations above the mean from which on a value is a spike."""
    min_steps: int = 64
    """Accepted steps before any finite value counts as a spike; NaN and infinity always do."""
    max_in_a_row: int = 8
    """Number of skipped steps in a row that makes the run roll back."""
    max_in_window: int = 32
    """Number of skipped steps among the last `window` that makes the run roll back."""
    rewind_steps: int = 100
    """Fewest steps to roll back: to the newest checkpoint that is old enough, or to the oldest
    one."""
    max_rollbacks: int = 5
    """Most rollbacks per run; after them the run ends as diverged."""

    def __post_init__(self) -> None:
        least = {"window": 2, "min_steps": 2, "max_in_a_row": 1, "max_in_window": 1}
        for name, minimum in (least | {"rewind_steps": 0, "max_rollbacks": 0}).items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {minimum}")
        if self.sigmas <= 0:
            raise ValueError(f"sigmas={self.sigmas} must be positive")

    def rollback_step(self, steps: Sequence[int], now: int, num_rollbacks: int) -> int | None:
        if num_rollbacks >= self.max_rollbacks:
            return None
        return rollback_step(steps, now, self.rewind_steps)

    def init(self) -> dict[str, jax.Array]:
        return {
            "losses_W": jnp.zeros(self.window, jnp.float32),
            "grad_norms_W": jnp.zeros(self.window, jnp.float32),
            "accepted": jnp.zeros((), jnp.int32),
            "norms_seen": jnp.zeros((), jnp.int32),
            "skipped_W": jnp.zeros(self.window, jnp.int32),
            "in_a_row": jnp.zeros((), jnp.int32),
            "total": jnp.zeros((), jnp.int32),
            # How far above the mean loss and norm lay that were refused and stood alone (2), or may
            # yet turn out to; and the usual steps since anything else.
            "alone_2": jnp.zeros(2, jnp.float32),
            "perhaps_alone_2": jnp.zeros(2, jnp.float32),
            "calm": jnp.zeros((), jnp.int32),
        }

    def accept(
        self, memory: dict[str, jax.Array], step: jax.Array, loss: jax.Array, grad_norm: jax.Array
    ) -> tuple[jax.Array | bool, dict[str, jax.Array], Skips]:
        accepted, norms_seen = memory["accepted"], memory["norms_seen"]
        early = accepted < self.min_steps
        center_2, usual_2 = self._usual(memory)
        usual_2 = jnp.where(early, jnp.inf, usual_2)
        value_2 = jnp.stack([loss, grad_norm])
        # Let through at most now and then: parameters that are broken refuse step after step.
        is_calm = memory["calm"] >= self.max_in_a_row
        most_2 = jnp.stack([jnp.float32(_MOST_NATS), _MOST_TIMES_THE_MEAN_NORM * center_2[1]])
        known_2 = jnp.minimum(center_2 + _TOLERANCE * memory["alone_2"], most_2)
        limit_2 = jnp.where(is_calm, jnp.maximum(usual_2, known_2), usual_2)
        is_usual_2 = value_2 <= usual_2
        is_finite = jnp.all(jnp.isfinite(value_2))
        good = is_finite & jnp.all(value_2 <= limit_2)
        # A gradient is worth remembering if nothing but its size is wrong.
        sound = is_finite & is_usual_2[0]
        usual = good & jnp.all(is_usual_2)
        skipped = jnp.where(good, 0, 1)
        skipped_W = memory["skipped_W"].at[step % self.window].set(skipped)
        skips = Skips(
            now=skipped,
            in_a_row=jnp.where(good, 0, memory["in_a_row"] + 1),
            in_window=jnp.sum(skipped_W),
            total=memory["total"] + skipped,
            loss_limit=limit_2[0],
            grad_norm_limit=limit_2[1],
        )
        was_alone = usual & (memory["in_a_row"] == 1)
        alone_2 = jnp.where(was_alone, memory["perhaps_alone_2"], 0)
        excess_2 = jnp.where(is_finite & ~is_usual_2, value_2 - center_2, 0)
        after = {
            "losses_W": _put(memory["losses_W"], accepted, loss, good & is_usual_2[0]),
            "grad_norms_W": _put(memory["grad_norms_W"], norms_seen, grad_norm, sound),
            "accepted": accepted + jnp.where(good & is_usual_2[0], 1, 0),
            "norms_seen": norms_seen + jnp.where(sound, 1, 0),
            "skipped_W": skipped_W,
            "in_a_row": skips.in_a_row,
            "total": skips.total,
            "alone_2": jnp.maximum(memory["alone_2"], alone_2),
            "perhaps_alone_2": jnp.where(good, 0, excess_2),
            "calm": jnp.where(usual, memory["calm"] + 1, 0),
        }
        return good, after, skips

    def stop_reason(self, loss: float, grad_norm: float, skips: Skips) -> str | None:
        if skips.in_a_row >= self.max_in_a_row:
            return (
                f"{skips.in_a_row} updates in a row were skipped, the last one as its "
                f"{skips.why(loss, grad_norm)}"
            )
        if skips.in_window >= self.max_in_window:
            return f"{skips.in_window} of the last {self.window} updates were skipped"
        return None

    def is_level(self, skips: Skips, num_steps: int) -> bool:
        # More in a row: the parameters of the start were refused before it, too, and may be broken.
        return num_steps == skips.in_a_row >= self.max_in_a_row

    def _usual(self, memory: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Return the means of loss and norm, and the largest usual loss and norm; [2] each."""
        windows = (("losses_W", "accepted"), ("grad_norms_W", "norms_seen"))
        pairs = [self._limit(memory[values], memory[seen]) for values, seen in windows]
        center_2 = jnp.stack([mean for mean, _ in pairs])
        least_2 = center_2 * jnp.array([1.0, _USUAL_TIMES_THE_MEAN_NORM])
        return center_2, jnp.maximum(jnp.stack([most for _, most in pairs]), least_2)

    def _limit(self, values_W: jax.Array, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return mean and largest usual value, where `seen` have been put into the window."""
        seen = jnp.minimum(seen, self.window)
        valid_W = jnp.arange(self.window) < seen
        # Relative to one of them: the mean of equal values is then that value exactly.
        first = values_W[0]
        offsets_W = jnp.where(valid_W, values_W - first, 0)
        number = jnp.maximum(seen, 1).astype(jnp.float32)
        mean = jnp.sum(offsets_W) / number
        variance = jnp.sum(jnp.where(valid_W, jnp.square(offsets_W - mean), 0)) / number
        center = first + mean
        spread = jnp.maximum(jnp.sqrt(variance), _LEAST_SPREAD * jnp.abs(center))
        return center, center + self.sigmas * spread


def choose(accepted: jax.Array | bool, new: Any, old: Any) -> Any:
    """Return the new tree where an update is accepted, else the old one, bit for bit."""
    return jax.tree.map(lambda after, before: jnp.where(accepted, after, before), new, old)


def all_finite(tree: Any) -> jax.Array:
    """Return whether every floating value of a tree of arrays is finite; to be compiled."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in floats] or [jnp.array(True)]))


def _put(values_W: jax.Array, seen: jax.Array, value: jax.Array, wanted: jax.Array) -> jax.Array:
    """Replace the oldest value with a new one, if it is wanted."""
    place = seen % values_W.shape[0]
    return values_W.at[place].set(jnp.where(wanted, value, values_W[place]))
