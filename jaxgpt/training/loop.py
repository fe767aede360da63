"""The training loop: step, report, evaluate, save, stop. Knows no model, no data format, no text.

It never waits for the step just dispatched: metrics of step k-1 are read while step k runs.
Before anything is saved the newest loss and gradient are read: what they came from was finite.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.errors import DivergedError, JaxgptError
from jaxgpt.stopping import StopSignal
from jaxgpt.training.metrics import MetricsLog, Progress
from jaxgpt.training.state import TrainState
from jaxgpt.training.step import StepMetrics


@dataclass(frozen=True, kw_only=True)
class Hook:
    """Something done with the state every so many steps, and after the last one.

    Attributes:
        name: for messages.
        every_steps: interval; 0 means after the last step only.
        run: called with (step, state); what it returns goes into the next save's metadata.
    """

    name: str
    every_steps: int
    run: Callable[[int, TrainState], dict[str, Any]]


@dataclass(kw_only=True)
class Loop:
    """What stays the same during a run.

    Attributes:
        step: the compiled step; donates the state it is given.
        learning_rates: of each step, counted from 0; on the host, so that reading one waits for
            no device.
        num_steps: where the run ends.
        tokens_per_step: for throughput.
        flops_per_token: training FLOPs, for MFU.
        peak_flops: of all devices together, or None where it is not known.
        log_every: steps between records.
        save_every: steps between saves.
        save: called with (step, state, metadata).
        hooks: in the order in which they run.
    """

    step: Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]
    learning_rates: np.ndarray
    num_steps: int
    tokens_per_step: int
    flops_per_token: float
    peak_flops: float | None
    log_every: int
    save_every: int
    save: Callable[[int, TrainState, dict[str, Any]], None]
    hooks: Sequence[Hook] = ()


@dataclass
class _Clock:
    """Time of this process's steps since the last record; evaluations and saves are left out."""

    seconds: float
    step_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    steps: int = 0
    mark: float = field(default_factory=time.perf_counter)

    def restart(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self.mark
        self.mark = now

    def count_step(self) -> None:
        before = self.mark
        self.restart()
        self.step_seconds += self.mark - before
        self.steps += 1

    def reset(self) -> None:
        self.step_seconds = self.data_wait_seconds = 0.0
        self.steps = 0


def fit(
    loop: Loop,
    state: TrainState,
    batches: Iterator[Batch],
    log: MetricsLog,
    progress: Progress,
    stop: StopSignal,
    seconds: float = 0.0,
) -> TrainState:
    """Train from the state's step to `loop.num_steps`, saving on the way and at the end.

    Args:
        loop: the run's constants.
        state: at the step to continue from; its buffers are reused.
        batches: global batches on the devices, the first being that of the state's step.
        log: where records go.
        progress: what the person at the terminal sees.
        stop: asked after each step.
        seconds: time that earlier processes of this run have spent.

    Raises:
        DivergedError: the loss is not finite; nothing of it is saved.
        InterruptedByUser, UnfinishedError: a signal came; the state is saved.
    """
    step = saved = int(state.step)
    clock = _Clock(seconds)
    pending: tuple[int, StepMetrics] | None = None
    while step < loop.num_steps and stop.received is None:
        stop.agree()
        waited = time.perf_counter()
        batch = next(batches)
        clock.data_wait_seconds += time.perf_counter() - waited
        state, metrics = loop.step(state, batch)
        step += 1
        if pending is not None:
            _report(loop, *pending, clock, log, progress)
        pending = (step, metrics)
        due = [hook for hook in loop.hooks if _is_due(step, hook.every_steps, loop.num_steps)]
        save_due = _is_due(step, loop.save_every, loop.num_steps)
        if due or save_due or stop.received is not None:
            _report(loop, *pending, clock, log, progress)
            pending = None
            if stop.received is not None:
                # Whoever sent the signal may not wait for an evaluation.
                loop.save(step, state, {"step": step, "seconds": clock.seconds})
                saved = step
            metadata = _run_hooks(loop, due, step, state, clock.seconds)
            if saved != step and (save_due or stop.received is not None):
                loop.save(step, state, metadata)
                saved = step
            clock.restart()
    if step < loop.num_steps:
        if pending is not None:
            _report(loop, *pending, clock, log, progress)
        if saved != step:
            loop.save(step, state, {"step": step, "seconds": clock.seconds})
        raise _stopped(loop, step, log, stop)
    return state


def _run_hooks(
    loop: Loop, due: Sequence[Hook], step: int, state: TrainState, seconds: float
) -> dict[str, Any]:
    """Run hooks; what they return, with the step and the time, is the save's metadata."""
    metadata: dict[str, Any] = {"step": step, "seconds": seconds}
    try:
        for hook in due:
            metadata |= hook.run(step, state)
    except DivergedError:
        raise
    except Exception:
        # An evaluation that fails must not cost the training before it.
        loop.save(step, state, metadata)
        raise
    return metadata


def _stopped(loop: Loop, step: int, log: MetricsLog, stop: StopSignal) -> JaxgptError:
    assert stop.received is not None
    log.event("stopped", step, signal=stop.received.name)
    return stop.error(
        f"stopped by {stop.received.name} at step {step} of {loop.num_steps}"
        f"{', which is saved' if step else ''}. Run the same command again to continue"
    )


def _report(
    loop: Loop, step: int, metrics: StepMetrics, clock: _Clock, log: MetricsLog, progress: Progress
) -> None:
    values = {name: float(value) for name, value in jax.device_get(metrics)._asdict().items()}
    clock.count_step()
    if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
        log.event("diverged", step, loss=repr(values["loss"]), grad_norm=repr(values["grad_norm"]))
        raise DivergedError(
            f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}; not saved. "
            "Lower schedule.peak_learning_rate, or lengthen schedule.warmup_share, and resume"
        )
    rate = clock.steps * loop.tokens_per_step / max(clock.step_seconds, 1e-9)
    record = {
        "step": step,
        "tokens": step * loop.tokens_per_step,
        "loss": values["loss"],
        "bits_per_byte": values["bits_per_byte"],
        "learning_rate": float(loop.learning_rates[step - 1]),
        "grad_norm": values["grad_norm"],
        "tokens_per_second": rate,
        "mfu": loop.flops_per_token * rate / loop.peak_flops if loop.peak_flops else None,
        "seconds": clock.seconds,
        "data_wait_seconds": clock.data_wait_seconds,
    }
    progress.show(step, record)
    if _is_due(step, loop.log_every, loop.num_steps):
        log.train(record)
        clock.reset()


def _is_due(step: int, every_steps: int, num_steps: int) -> bool:
    return step == num_steps or (every_steps > 0 and step % every_steps == 0)
