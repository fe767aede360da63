"""The loop: what is saved when, what is never saved, what a signal or a failing hook does."""

import itertools
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from jaxgpt.errors import DivergedError, InterruptedByUser, UnfinishedError
from jaxgpt.training.loop import Hook, Loop, fit
from jaxgpt.training.metrics import MetricsLog, Progress, read_records
from jaxgpt.training.step import StepMetrics


class _State(SimpleNamespace):
    """Only what the loop reads: the step."""


class _Stop:
    def __init__(self, at: int | None = None, number: signal.Signals = signal.SIGTERM) -> None:
        self.at, self.number, self.seen = at, number, 0

    @property
    def received(self):
        return self.number if self.at is not None and self.seen >= self.at else None

    def error(self, message: str) -> Exception:
        kind = InterruptedByUser if self.number == signal.SIGINT else UnfinishedError
        return kind(message)

    def agree(self) -> None:
        pass


def _loop(saves, num_steps=10, losses=None, hooks=(), stop=None, save_every=4) -> Loop:
    losses = losses or {}

    def step(state, batch):
        if stop is not None:
            stop.seen = state.step + 1
        loss = losses.get(state.step + 1, 1.0)
        metrics = StepMetrics(*(np.float32(value) for value in (loss, 1.0, 0.5, 8.0)))
        return _State(step=state.step + 1), metrics

    return Loop(
        step=step,
        learning_rates=np.linspace(1, 0, num_steps),
        num_steps=num_steps,
        tokens_per_step=8,
        flops_per_token=1.0,
        peak_flops=None,
        log_every=1,
        save_every=save_every,
        save=lambda step, state, metadata: saves.append((step, metadata)),
        hooks=hooks,
    )


def _fit(tmp_path, loop, stop=None, start=0):
    with MetricsLog(tmp_path, start, tensorboard=False) as log:
        progress = Progress(loop.num_steps, 100.0)
        return fit(loop, _State(step=start), itertools.repeat(None), log, progress, stop or _Stop())


def test_it_saves_at_the_interval_and_at_the_end_and_logs_every_step_once(tmp_path) -> None:
    saves: list = []
    state = _fit(tmp_path, _loop(saves))
    assert state.step == 10
    assert [step for step, _ in saves] == [4, 8, 10]
    records = read_records(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 11))
    assert records[2]["tokens"] == 24
    assert records[0]["learning_rate"] == 1.0
    assert records[-1]["learning_rate"] == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [3, 4, 10])
def test_a_state_that_is_not_finite_is_never_saved(tmp_path, bad: float, at: int) -> None:
    saves: list = []
    with pytest.raises(DivergedError, match=f"step {at}: loss {bad}"):
        _fit(tmp_path, _loop(saves, losses={at: bad}))
    assert all(step < at for step, _ in saves)
    assert read_records(tmp_path / "events.jsonl")[-1]["event"] == "diverged"


def test_what_hooks_measure_is_saved_with_the_state(tmp_path) -> None:
    saves: list = []
    hook = Hook(name="evaluation", every_steps=2, run=lambda step, state: {"eval_loss": step / 10})
    _fit(tmp_path, _loop(saves, hooks=(hook,)))
    assert [metadata["eval_loss"] for _, metadata in saves] == [0.4, 0.8, 1.0]


def test_a_hook_that_fails_costs_no_training(tmp_path) -> None:
    def fail(step, state):
        raise RuntimeError("the evaluation died")

    saves: list = []
    hook = Hook(name="evaluation", every_steps=3, run=fail)
    with pytest.raises(RuntimeError, match="died"):
        _fit(tmp_path, _loop(saves, hooks=(hook,)))
    assert [step for step, _ in saves] == [3]


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, InterruptedByUser), (signal.SIGTERM, UnfinishedError)]
)
def test_a_signal_saves_the_newest_step(tmp_path, number, error) -> None:
    saves: list = []
    stop = _Stop(at=6, number=number)
    with pytest.raises(error, match="at step 6 of 10"):
        _fit(tmp_path, _loop(saves, stop=stop), stop)
    assert [step for step, _ in saves] == [4, 6]


def test_a_signal_during_a_hook_is_obeyed_after_it(tmp_path) -> None:
    stop = _Stop(at=None)

    def evaluate(step, state):
        stop.at = 0
        return {}

    saves: list = []
    hook = Hook(name="evaluation", every_steps=5, run=evaluate)
    with pytest.raises(UnfinishedError):
        _fit(tmp_path, _loop(saves, hooks=(hook,), stop=stop), stop)
    assert [step for step, _ in saves] == [4, 5]


def test_a_signal_before_the_first_step_saves_nothing_new(tmp_path) -> None:
    saves: list = []
    stop = _Stop(at=0)
    with pytest.raises(UnfinishedError):
        _fit(tmp_path, _loop(saves, stop=stop), stop, start=4)
    assert saves == []


def test_lines_past_the_restored_step_are_dropped_and_half_lines_too(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 2, "eval": {}}\n{"step": 3}\n{"st')
    with MetricsLog(tmp_path, 2, tensorboard=False) as log:
        log.train({"step": 3})
    records = read_records(path)
    assert records == [{"step": 1}, {"step": 2}, {"step": 2, "eval": {}}, {"step": 3}]
