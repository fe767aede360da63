"""The training loop: step, report, evaluate, save, stop. Knows no model, no data format, no text.

It never waits for the step just dispatched: metrics of step k-1 are read while step k runs.
Before anything is saved the newest loss and gradient are read, and the state is looked through:
what is not finite is never saved. Every moment is booked in the run's `GoodputTracker`.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.errors import DivergedError, JaxgptError, ReplicasDifferError
from jaxgpt.stop_signal import StopSignal
from jaxgpt.training.goodput import GoodputTracker
from jaxgpt.training.metrics import MetricsLog, TrainingProgress
from jaxgpt.training.recovery import NoSkipping, Recovery, Skips
from jaxgpt.training.rollback import UnstableError
from jaxgpt.training.state import TrainState
from jaxgpt.training.step import StepMetrics

ADVICE = "Lower schedule.peak_learning_rate, or lengthen schedule.warmup_share, and resume"


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


class Pause:
    """Called now and then by hooks that take long: a sign of life, a moment to obey a signal."""

    def __init__(self) -> None:
        self.act: Callable[[], None] = lambda: None

    def __call__(self) -> None:
        self.act()

    @contextmanager
    def acting(self, act: Callable[[], None]) -> Iterator[None]:
        """Within the context, this is done; afterwards what it refers to is let go."""
        self.act = act
        try:
            yield
        finally:
            self.act = lambda: None


@dataclass(kw_only=True)
class Loop:
    """What stays the same during a run.

    Attributes:
        step: the compiled step; donates the state it is given.
        learning_rates: of each update, counted from 0; on the host: reading waits for no device.
        num_steps: where the run ends.
        tokens_per_step: read by each step.
        tokens_offset: read by the run besides, as steps of earlier processes were of another size.
        flops_per_token, peak_flops: for MFU; of all devices together, None where not known.
        log_every, save_every: steps between records, between saves.
        save: called with (step, state, metadata); need not be durable when it returns.
        wait: waits until the last save is; raises if it failed.
        hooks: in the order in which they run.
        recovery: what it takes to give up; the step itself decides what is skipped.
        is_finite: whether a state may be saved.
        batch_offset: batches that the run has passed over: step k reads batch k - 1 + this.
        advice: what to do where the run cannot go on.
        goodput: where time is booked.
        pause: what the hooks call; whoever has sent a signal may not wait for their end.
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
    wait: Callable[[], None] = lambda: None
    hooks: Sequence[Hook] = ()
    recovery: Recovery = field(default_factory=NoSkipping)
    is_finite: Callable[[TrainState], bool] = lambda state: True
    batch_offset: int = 0
    tokens_offset: int = 0
    advice: str = ADVICE
    goodput: GoodputTracker = field(default_factory=GoodputTracker)
    pause: Pause = field(default_factory=Pause)


@dataclass
class _Clock:
    """Time of this process's steps since the last record; evaluations and saves are left out.

    Attributes:
        began: steps done before this process's first one.
        is_finite: whether all losses and gradients since then were.
    """

    seconds: float
    began: int
    step_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    steps: int = 0
    is_new: bool = True
    is_finite: bool = True
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
    progress: TrainingProgress,
    stop: StopSignal,
    seconds: float = 0.0,
) -> TrainState:
    """Train from the state's step to `loop.num_steps`, saving on the way and at the end.

    Args:
        loop: what stays the same.
        state: at the step to continue from; its buffers are reused.
        batches: global batches on the devices, the first being that of the state's step.
        log, progress: where records go; what the person at the terminal sees.
        stop: asked after each step.
        seconds: time that earlier processes of this run have spent.

    Raises:
        UnstableError: the run cannot go on from here; nothing of it is saved.
        InterruptedByUser, UnfinishedError: a signal came; the state is saved.
    """
    step = saved = int(state.step)
    clock = _Clock(seconds, step)
    pending: tuple[int, StepMetrics] | None = None

    def attend() -> None:
        nonlocal saved
        loop.goodput.heartbeat()
        if stop.received is not None and saved != step:
            _save(loop, step, state, {"step": step, "seconds": clock.seconds})
            saved = step

    with loop.pause.acting(attend):
        while step < loop.num_steps and stop.received is None:
            stop.agree()
            state, metrics = _dispatch(loop, step + 1, state, batches, clock)
            step += 1
            _report(loop, pending, clock, log, progress)
            pending = (step, metrics)
            due = [hook for hook in loop.hooks if _is_due(step, hook.every_steps, loop.num_steps)]
            save_due = _is_due(step, loop.save_every, loop.num_steps)
            if due or save_due or stop.received is not None:
                _report(loop, pending, clock, log, progress)
                pending = None
                attend()
                metadata = _run_hooks(loop, due, step, state, clock.seconds)
                if saved != step and (save_due or stop.received is not None):
                    _save(loop, step, state, metadata)
                    saved = step
                    log.goodput(step, loop.goodput.record())
                clock.restart()
                loop.goodput.discard_next_duration()
        if step < loop.num_steps:
            _report(loop, pending, clock, log, progress)
            attend()
            raise _stopped(loop, step, log, stop)
    return state


def _dispatch(
    loop: Loop, step: int, state: TrainState, batches: Iterator[Batch], clock: _Clock
) -> tuple[TrainState, StepMetrics]:
    """Begin a step with the next batch; computing goes on after this has returned."""
    batch = _next(batches, clock, loop.goodput)
    loop.goodput.enter_step(step)
    # What the first call takes is compilation.
    with loop.goodput.spending("compile") if clock.is_new else nullcontext():
        state, metrics = loop.step(state, batch)
    clock.is_new = False
    return state, metrics


def _next(batches: Iterator[Batch], clock: _Clock, goodput: GoodputTracker) -> Batch:
    began = time.perf_counter()
    with goodput.spending("data_wait"):
        batch = next(batches)
    clock.data_wait_seconds += time.perf_counter() - began
    return batch


def _run_hooks(
    loop: Loop, due: Sequence[Hook], step: int, state: TrainState, seconds: float
) -> dict[str, Any]:
    """Run hooks; what they return, with the step and the time, is the save's metadata."""
    metadata: dict[str, Any] = {"step": step, "seconds": seconds}
    try:
        for hook in due:
            with loop.goodput.spending("eval"):
                metadata |= hook.run(step, state)
    except (DivergedError, ReplicasDifferError):
        raise
    except Exception:
        # It must not cost the training before it; but a host saving alone would wait for ever.
        if jax.process_count() == 1:
            _save(loop, step, state, metadata)
        raise
    return metadata


def _save(loop: Loop, step: int, state: TrainState, metadata: dict[str, Any]) -> None:
    with loop.goodput.spending("save"):
        if not loop.is_finite(state):
            raise UnstableError(
                step, f"parameters or optimiser state are not finite; not saved. {loop.advice}"
            )
        loop.save(step, state, metadata)


def _stopped(loop: Loop, step: int, log: MetricsLog, stop: StopSignal) -> JaxgptError:
    assert stop.received is not None
    log.event("stopped", step, signal=stop.received.name)
    end = ", which is saved" if step else ""
    with loop.goodput.spending("save"):
        try:
            loop.wait()
        except JaxgptError as error:
            end = f"; {error}"
    return stop.error(
        f"stopped by {stop.received.name} at step {step} of {loop.num_steps}{end}. "
        "Run the same command again to continue"
    )


def _report(
    loop: Loop,
    pending: tuple[int, StepMetrics] | None,
    clock: _Clock,
    log: MetricsLog,
    progress: TrainingProgress,
) -> None:
    if pending is None:
        return
    step, metrics = pending
    read = jax.device_get(metrics)
    skips = Skips(*(np.asarray(number).item() for number in read.skips))
    values = jax.tree.map(lambda value: np.asarray(value).tolist(), read._asdict())
    clock.count_step()
    loop.goodput.finish_step(step)
    seen = {"loss": values["loss"], "grad_norm": values["grad_norm"]}
    clock.is_finite &= all(map(math.isfinite, seen.values()))
    if skips.now:
        limits = {"loss_limit": skips.loss_limit, "grad_norm_limit": skips.grad_norm_limit}
        why = skips.why(**seen)
        log.event("skip", step, batch=step - 1 + loop.batch_offset, reason=why, **seen, **limits)
        progress.say(f"step {step}: update skipped, {why}")
    reason = loop.recovery.stop_reason(values["loss"], values["grad_norm"], skips)
    if reason is not None:
        log.event("diverged", step, reason=reason, **seen)
        is_level = clock.is_finite and loop.recovery.is_level(skips, step - clock.began)
        raise UnstableError(step, f"{reason}; not saved. {loop.advice}", is_level)
    rate = clock.steps * loop.tokens_per_step / max(clock.step_seconds, 1e-9)
    record = {
        "step": step,
        "tokens": loop.tokens_offset + step * loop.tokens_per_step,
        "loss": values["loss"],
        "bits_per_byte": values["bits_per_byte"],
        # A skipped update takes no step of the schedule.
        "learning_rate": float(loop.learning_rates[step - 1 - skips.total + skips.now]),
        "grad_norm": values["grad_norm"],
        "tokens_per_second": rate,
        "mfu": loop.flops_per_token * rate / loop.peak_flops if loop.peak_flops else None,
        "seconds": clock.seconds,
        "data_wait_seconds": clock.data_wait_seconds,
        "skipped_steps": skips.total,
    }
    if values["routing"] is not None:
        record["routing"] = values["routing"]
    progress.show(step, record)
    if _is_due(step, loop.log_every, loop.num_steps):
        log.train(record)
        clock.reset()


def _is_due(step: int, every_steps: int, num_steps: int) -> bool:
    return step == num_steps or (every_steps > 0 and step % every_steps == 0)
