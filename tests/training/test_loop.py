"""The loop: what is saved when, what is never saved, what a signal or a failing hook does."""

import dataclasses
import gc
import itertools
import json
import signal
import time
import weakref
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxgpt.errors import DivergedError, InterruptedByUser, UnfinishedError
from jaxgpt.training.goodput import GoodputTracker
from jaxgpt.training.loop import Hook, Loop, fit
from jaxgpt.training.metrics import MetricsLog, TrainingProgress, read_records
from jaxgpt.training.recovery import Skips, SkipSpikes
from jaxgpt.training.rollback import UnstableError
from jaxgpt.training.step import StepMetrics
from jaxgpt.training.step_reports import ReportSettings


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
        num_steps=num_steps,
        reports=ReportSettings(
            num_steps=num_steps,
            every_steps=1,
            learning_rates=np.linspace(1, 0, num_steps),
            tokens_per_step=8,
            flops_per_token=1.0,
            peak_flops=None,
        ),
        save_every=save_every,
        save=lambda step, state, metadata: saves.append((step, metadata)),
        hooks=hooks,
    )


def _fit(tmp_path, loop, stop=None, start=0):
    with MetricsLog(tmp_path, start, tensorboard=False) as log:
        progress = TrainingProgress(loop.num_steps, 100.0)
        return fit(loop, _State(step=start), itertools.repeat(None), log, progress, stop or _Stop())


def test_it_saves_at_the_interval_and_at_the_end_and_logs_every_step_once(tmp_path) -> None:
    saves: list = []
    state = _fit(tmp_path, _loop(saves))
    assert state.step == 10
    assert [step for step, _ in saves] == [4, 8, 10]
    records = read_records(tmp_path / "metrics.jsonl")
    accounts = [record for record in records if "goodput" in record]
    assert [record["step"] for record in accounts] == [4, 8, 10]
    records = [record for record in records if "loss" in record]
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
    hook = Hook(
        name="evaluation",
        every_steps=2,
        run=lambda step, state, heartbeat: {"eval_loss": step / 10},
    )
    _fit(tmp_path, _loop(saves, hooks=(hook,)))
    assert [metadata["eval_loss"] for _, metadata in saves] == [0.4, 0.8, 1.0]


@pytest.mark.parametrize(("num_hosts", "saved"), [(1, [3]), (2, [])])
def test_a_hook_that_fails_costs_no_training_and_hangs_no_host(
    tmp_path, monkeypatch, num_hosts, saved
) -> None:
    """Where there are several, it may have failed at one of them; a save needs all."""

    def fail(step, state, heartbeat):
        raise RuntimeError("the evaluation died")

    monkeypatch.setattr(jax, "process_count", lambda: num_hosts)
    saves: list = []
    hook = Hook(name="evaluation", every_steps=3, run=fail)
    with pytest.raises(RuntimeError, match="died"):
        _fit(tmp_path, _loop(saves, hooks=(hook,)))
    assert [step for step, _ in saves] == saved


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

    def evaluate(step, state, heartbeat):
        stop.at = 0
        return {}

    saves: list = []
    hook = Hook(name="evaluation", every_steps=5, run=evaluate)
    with pytest.raises(UnfinishedError):
        _fit(tmp_path, _loop(saves, hooks=(hook,), stop=stop), stop)
    assert [step for step, _ in saves] == [4, 5]


def test_who_signals_during_a_long_hook_does_not_wait_for_its_end(tmp_path) -> None:
    stop = _Stop(at=None)
    saves: list = []
    seen: list = []

    def evaluate(step, state, heartbeat):
        heartbeat()
        stop.at = 0
        seen.append(list(saves))
        heartbeat()
        seen.append([step for step, _ in saves])
        heartbeat()
        return {}

    hook = Hook(name="evaluation", every_steps=5, run=evaluate)
    with pytest.raises(UnfinishedError):
        _fit(tmp_path, _loop(saves, hooks=(hook,), stop=stop), stop)
    assert [len(seen[0]), seen[1]] == [1, [4, 5]]
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
    assert records[:-1] == [{"step": 1}, {"step": 2}, {"step": 2, "eval": {}}]
    assert records[-1]["step"] == 3


@pytest.mark.parametrize("broken_at", [4, 10])
def test_parameters_that_are_not_finite_are_never_saved(tmp_path, broken_at: int) -> None:
    """The loss before an update can be fine and the update not."""
    saves: list = []
    loop = dataclasses.replace(_loop(saves), is_finite=lambda state: state.step < broken_at)
    with pytest.raises(UnstableError, match=f"step {broken_at}: parameters"):
        _fit(tmp_path, loop)
    assert all(step < broken_at for step, _ in saves)


def test_a_state_that_is_given_up_does_not_stay_in_memory(tmp_path) -> None:
    """Whoever goes back makes the next one while nothing but its own references holds this one."""
    states: list = []
    loop = _loop([], losses={5: float("nan")})

    def step(state, batch):
        after, metrics = loop.step(state, batch)
        states.append(weakref.ref(after))
        return after, metrics

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(UnstableError) as caught:
            _fit(tmp_path, dataclasses.replace(loop, step=step))
        caught.value.with_traceback(None)
        del caught
        assert [state() for state in states] == [None] * len(states)
    finally:
        gc.enable()


def test_a_skipped_step_is_told_with_its_batch_and_takes_no_step_of_the_schedule(tmp_path) -> None:
    plain, skipped = _loop([]), (3, 4)

    def step(state, batch):
        after, metrics = plain.step(state, batch)
        total = sum(bad <= after.step for bad in skipped)
        now = int(after.step in skipped)
        return after, metrics._replace(skips=Skips(now, now, total, total))

    reports = dataclasses.replace(plain.reports, batch_offset=100, recovery=SkipSpikes())
    loop = dataclasses.replace(plain, step=step, reports=reports)
    _fit(tmp_path, loop)
    records = [r for r in read_records(tmp_path / "metrics.jsonl") if "loss" in r]
    events = read_records(tmp_path / "events.jsonl")
    skips = [event for event in events if event["event"] == "skip"]
    assert [(skip["step"], skip["batch"]) for skip in skips] == [(3, 102), (4, 103)]
    assert [skip["loss"] for skip in skips] == [records[step - 1]["loss"] for step in (3, 4)]
    rates = [record["learning_rate"] for record in records]
    assert [record["skipped_steps"] for record in records] == [0, 0, 1, 2, 2, 2, 2, 2, 2, 2]
    assert rates == pytest.approx([1 - n / 9 for n in (0, 1, 2, 2, 2, 3, 4, 5, 6, 7)])


def test_a_loss_that_is_not_finite_is_null_in_the_log(tmp_path) -> None:
    loop = _loop([], losses={2: float("nan")})
    reports = dataclasses.replace(loop.reports, recovery=SkipSpikes())
    _fit(tmp_path, dataclasses.replace(loop, reports=reports))
    lines = (tmp_path / "metrics.jsonl").read_text().split("\n")
    assert json.loads(lines[1], parse_constant=pytest.fail)["loss"] is None


def test_every_second_of_fit_is_accounted_for(tmp_path) -> None:
    def work(step, state, heartbeat):
        time.sleep(0.05)
        return {}

    goodput = GoodputTracker()
    loop = _loop([], hooks=(Hook(name="evaluation", every_steps=5, run=work),))
    slow = dataclasses.replace(
        loop, goodput=goodput, save=lambda step, state, metadata: time.sleep(0.05)
    )
    began = time.monotonic()
    _fit(tmp_path, slow)
    wall = time.monotonic() - began
    seconds = goodput.seconds()
    assert sum(seconds.values()) == pytest.approx(wall, rel=0.01, abs=0.005)
    assert seconds["eval"] == pytest.approx(0.1, rel=0.5)
    assert seconds["save"] == pytest.approx(0.15, rel=0.5)
