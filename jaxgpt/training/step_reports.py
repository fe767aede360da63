"""Report finished steps to the log and the terminal, and refuse to go on after one that is bad."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxgpt.training.metrics import MetricsLog, TrainingProgress
from jaxgpt.training.recovery import NoSkipping, Recovery, Skips
from jaxgpt.training.rollback import UnstableError
from jaxgpt.training.step import StepMetrics

ADVICE = "Lower schedule.peak_learning_rate, or lengthen schedule.warmup_share, and resume"


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Facts about a run that its reports need.

    Attributes:
        num_steps: where the run ends.
        every_steps: steps between records.
        learning_rates: of each update, counted from 0; on the host: reading waits for no device.
        tokens_per_step: read by each step.
        tokens_offset: read by the run besides, as steps of earlier processes were of another size.
        flops_per_token, peak_flops: for MFU; of all devices together, None where not known.
        batch_offset: batches that rollbacks have skipped: step k reads batch k - 1 + this.
        recovery: decides when a run must stop; the step itself decides what is skipped.
        advice: what to do when the run cannot go on.
    """

    num_steps: int
    every_steps: int
    learning_rates: np.ndarray
    tokens_per_step: int
    flops_per_token: float
    peak_flops: float | None
    tokens_offset: int = 0
    batch_offset: int = 0
    recovery: Recovery = field(default_factory=NoSkipping)
    advice: str = ADVICE


@dataclass
class StepClock:
    """Time of this process's steps since the last record; evaluations and saves are left out.

    Attributes:
        seconds: spent on the run, by earlier processes as well.
    """

    seconds: float
    step_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    num_steps: int = 0
    mark: float = field(default_factory=time.perf_counter)

    def restart(self) -> None:
        """Count the time since the last mark to the run, but to no step."""
        now = time.perf_counter()
        self.seconds += now - self.mark
        self.mark = now

    def count_step(self) -> None:
        """Count the time since the last mark to a step."""
        before = self.mark
        self.restart()
        self.step_seconds += self.mark - before
        self.num_steps += 1

    def reset(self) -> None:
        """Begin the next record."""
        self.step_seconds = self.data_wait_seconds = 0.0
        self.num_steps = 0


class StepReporter:
    """Reports the steps of one process, in order.

    Args:
        settings: facts about the run.
        first_step: steps done before this process's first one.
        log, progress: the files, and the person at the terminal.
        clock: times the steps.
    """

    def __init__(
        self,
        settings: ReportSettings,
        first_step: int,
        log: MetricsLog,
        progress: TrainingProgress,
        clock: StepClock,
    ) -> None:
        self._settings = settings
        self._first_step = first_step
        self._log = log
        self._progress = progress
        self._clock = clock
        self._all_finite = True

    def report(self, step: int, metrics: StepMetrics) -> None:
        """Report a step that has just ended; its metrics are on the host.

        Raises:
            UnstableError: the run must not go on after this step.
        """
        self._clock.count_step()
        skips = Skips(*(np.asarray(number).item() for number in metrics.skips))
        values = jax.tree.map(lambda value: np.asarray(value).tolist(), metrics._asdict())
        if skips.now:
            self._tell_skip(step, values, skips)
        self._require_stable(step, values, skips)
        record = self._record(step, values, skips)
        self._progress.show(step, record)
        if is_due(step, self._settings.every_steps, self._settings.num_steps):
            self._log.train(record)
            self._clock.reset()

    def _tell_skip(self, step: int, values: dict[str, Any], skips: Skips) -> None:
        seen = _loss_and_norm(values)
        why = skips.why(**seen)
        self._log.event(
            "skip",
            step,
            batch=step - 1 + self._settings.batch_offset,
            reason=why,
            **seen,
            loss_limit=skips.loss_limit,
            grad_norm_limit=skips.grad_norm_limit,
        )
        self._progress.say(f"step {step}: update skipped, {why}")

    def _require_stable(self, step: int, values: dict[str, Any], skips: Skips) -> None:
        recovery, seen = self._settings.recovery, _loss_and_norm(values)
        self._all_finite &= all(map(math.isfinite, seen.values()))
        reason = recovery.stop_reason(**seen, skips=skips)
        if reason is not None:
            self._log.event("diverged", step, reason=reason, **seen)
            is_level = self._all_finite and recovery.is_level(skips, step - self._first_step)
            raise UnstableError(step, f"{reason}; not saved. {self._settings.advice}", is_level)

    def _record(self, step: int, values: dict[str, Any], skips: Skips) -> dict[str, Any]:
        settings, clock = self._settings, self._clock
        rate = clock.num_steps * settings.tokens_per_step / max(clock.step_seconds, 1e-9)
        peak, bits = settings.peak_flops, values["bits_per_byte"]
        record = {
            "step": step,
            "tokens": settings.tokens_offset + step * settings.tokens_per_step,
            "loss": values["loss"],
            **({} if bits is None else {"bits_per_byte": bits}),
            # A skipped update takes no step of the schedule.
            "learning_rate": float(settings.learning_rates[step - 1 - skips.total + skips.now]),
            "grad_norm": values["grad_norm"],
            "tokens_per_second": rate,
            "mfu": settings.flops_per_token * rate / peak if peak else None,
            "seconds": clock.seconds,
            "data_wait_seconds": clock.data_wait_seconds,
            "skipped_steps": skips.total,
        }
        if values["routing"] is not None:
            record["routing"] = values["routing"]
        if values["figures"] is not None:
            record["figures"] = values["figures"]
        return record


def is_due(step: int, every_steps: int, num_steps: int) -> bool:
    """Return whether something done every `every_steps` (0: never) and at the end is due."""
    return step == num_steps or (every_steps > 0 and step % every_steps == 0)


def _loss_and_norm(values: dict[str, Any]) -> dict[str, float]:
    return {"loss": values["loss"], "grad_norm": values["grad_norm"]}
