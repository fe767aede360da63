"""The training loop: step, report, evaluate, save, stop. Knows no model, no data format, no text.

It never waits for the step just dispatched: metrics of step k-1 are read while step k runs. Before
a save, the newest loss and gradient are read and the state is checked: a state that is not finite
is never saved. Every moment is booked in the run's `GoodputTracker`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxgpt.batch import Batch
from jaxgpt.errors import DivergedError, JaxgptError, ReplicasDifferError
from jaxgpt.stop_signal import StopSignal
from jaxgpt.training.goodput import GoodputTracker
from jaxgpt.training.metrics import MetricsLog, TrainingProgress
from jaxgpt.training.rollback import UnstableError
from jaxgpt.training.state import TrainState
from jaxgpt.training.step import StepMetrics, TrainingStep
from jaxgpt.training.step_reports import ReportSettings, StepClock, StepReporter, is_due

# Feeds the watchdog; if a signal has arrived, it also saves, so that nobody waits for a hook's end.
Heartbeat = Callable[[], None]
HookFunction = Callable[[int, TrainState, Heartbeat], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Hook:
    """Something done with the state at an interval, and after the last step.

    Attributes:
        name: for messages.
        every_steps: interval; 0 means after the last step only.
        run: called with (step, state, heartbeat); a long hook calls `heartbeat` periodically. What
            the hook returns goes into the next save's metadata.
    """

    name: str
    every_steps: int
    run: HookFunction


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Parts of a loop that stay the same during a run.

    Attributes:
        step: the compiled step; donates the state it is given.
        num_steps: where the run ends.
        reports: for the reports of steps.
        save_every: steps between saves.
        save: called with (step, state, metadata); need not be durable when it returns.
        wait: waits until the last save is durable; raises if it failed.
        is_finite: whether a state may be saved.
        hooks: in the order in which they run.
        measures_start: whether hooks also run before step 1, on what the run begins with.
        goodput: where time is booked.
    """

    step: TrainingStep
    num_steps: int
    reports: ReportSettings
    save_every: int
    save: Callable[[int, TrainState, dict[str, Any]], None]
    wait: Callable[[], None] = lambda: None
    is_finite: Callable[[TrainState], bool] = lambda state: True
    hooks: Sequence[Hook] = ()
    measures_start: bool = False
    goodput: GoodputTracker = field(default_factory=GoodputTracker)


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
    run = _RunningLoop(loop, state, log, progress, stop, seconds)
    if loop.measures_start and run.step == 0:
        run.call(loop.hooks)
        run.leave_out_of_step_times()
    while run.step < loop.num_steps and stop.received is None:
        stop.agree()
        run.train_step(batches)
        hooks = [hook for hook in loop.hooks if is_due(run.step, hook.every_steps, loop.num_steps)]
        is_save_due = is_due(run.step, loop.save_every, loop.num_steps)
        if hooks or is_save_due or stop.received is not None:
            run.report()  # A state is used only after its loss and gradient have been judged.
            run.heartbeat()
            metadata = run.call(hooks)
            if is_save_due or stop.received is not None:
                run.save(metadata)
            run.leave_out_of_step_times()
    if run.step < loop.num_steps:
        run.report()
        run.heartbeat()
        raise run.stopped()
    return run.state


class _RunningLoop:
    """The state of a loop between two steps, and the moves that `fit` makes with it."""

    def __init__(
        self,
        loop: Loop,
        state: TrainState,
        log: MetricsLog,
        progress: TrainingProgress,
        stop: StopSignal,
        seconds: float,
    ) -> None:
        self.state = state
        self.step = self._saved_step = int(state.step)
        self._loop = loop
        self._log = log
        self._stop = stop
        self._clock = StepClock(seconds)
        self._reporter = StepReporter(loop.reports, self.step, log, progress, self._clock)
        self._unreported: tuple[int, StepMetrics] | None = None
        self._is_compiled = False

    def train_step(self, batches: Iterator[Batch]) -> None:
        """Dispatch a step with the next batch, and report the step before while it computes."""
        batch = self._next(batches)
        goodput = self._loop.goodput
        goodput.enter_step(self.step + 1)
        # The first call compiles.
        with nullcontext() if self._is_compiled else goodput.spending("compile"):
            self.state, metrics = self._loop.step(self.state, batch)
        self._is_compiled = True
        self.step += 1
        self.report()
        self._unreported = self.step, metrics

    def report(self) -> None:
        """Report the newest step that is not reported yet, if any."""
        if self._unreported is not None:
            (step, metrics), self._unreported = self._unreported, None
            metrics = jax.device_get(metrics)  # Waits for the step.
            self._loop.goodput.finish_step(step)
            self._reporter.report(step, metrics)

    def heartbeat(self) -> None:
        """Feed the watchdog, and save if a signal has arrived."""
        self._loop.goodput.heartbeat()
        if self._stop.received is not None and self._saved_step != self.step:
            self._save_now(self._metadata())

    def call(self, hooks: Sequence[Hook]) -> dict[str, Any]:
        """Run hooks; return the metadata of a save after them: their results, step and time."""
        metadata = self._metadata()
        try:
            for hook in hooks:
                with self._loop.goodput.spending("eval"):
                    metadata |= hook.run(self.step, self.state, self.heartbeat)
        except (DivergedError, ReplicasDifferError):
            raise
        except Exception:
            # It must not cost the training before it; but a host saving alone would wait for ever.
            if jax.process_count() == 1 and self.step:
                self._save_now(metadata)
            raise
        return metadata

    def save(self, metadata: dict[str, Any]) -> None:
        """Save the newest step, unless it is saved, and log what time was spent on until then."""
        if self._saved_step != self.step:
            self._save_now(metadata)
            self._log.goodput(self.step, self._loop.goodput.record())

    def leave_out_of_step_times(self) -> None:
        """Count what came after the last step as no part of the next one."""
        self._clock.restart()
        self._loop.goodput.discard_next_duration()

    def stopped(self) -> JaxgptError:
        """Return the error that a signal ends the run with, once the last save is durable."""
        received, step = self._stop.received, self.step
        assert received is not None
        self._log.event("stopped", step, signal=received.name)
        end = ", which is saved" if step else ""
        with self._loop.goodput.spending("save"):
            try:
                self._loop.wait()
            except JaxgptError as error:
                end = f"; {error}"
        return self._stop.error(
            f"stopped by {received.name} at step {step} of {self._loop.num_steps}{end}. "
            "Run the same command again to continue"
        )

    def _next(self, batches: Iterator[Batch]) -> Batch:
        began = time.perf_counter()
        with self._loop.goodput.spending("data_wait"):
            batch = next(batches)
        self._clock.data_wait_seconds += time.perf_counter() - began
        return batch

    def _metadata(self) -> dict[str, Any]:
        return {"step": self.step, "seconds": self._clock.seconds}

    def _save_now(self, metadata: dict[str, Any]) -> None:
        with self._loop.goodput.spending("save"):
            if not self._loop.is_finite(self.state):
                raise UnstableError(
                    self.step,
                    "parameters or optimiser state are not finite; not saved. "
                    f"{self._loop.reports.advice}",
                )
            self._loop.save(self.step, self.state, metadata)
        self._saved_step = self.step
