"""A hang ends the process with code 75 and says where; work that is slow by nature does not."""

import threading
import time

import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.training.goodput import PURPOSES, GoodputTracker
from jaxgpt.training.metrics import read_records
from jaxgpt.training.watchdog import Watchdog, WatchdogConfig


def _a_place_to_hang(seconds: float) -> None:
    time.sleep(seconds)


def _watch(tmp_path, config, work) -> int | None:
    left: list[int] = []
    goodput = GoodputTracker(tmp_path)
    with Watchdog(config, goodput, tmp_path, leave=left.append):
        work(goodput)
    return left[0] if left else None


def test_a_hang_dumps_all_stacks_and_leaves(tmp_path, capfd) -> None:
    helper = threading.Thread(target=_a_place_to_hang, args=(3.0,))
    helper.start()

    def hang(goodput) -> None:
        goodput.finish_step(7)
        with goodput.spending("data_wait"):
            time.sleep(1.5)

    assert _watch(tmp_path, WatchdogConfig(least_seconds=0.3), hang) == 75
    (event,) = read_records(tmp_path / "events.jsonl")
    assert (event["event"], event["step"], event["purpose"]) == ("hang", 7, "data_wait")
    stacks = (tmp_path / event["stacks"]).read_text()
    assert "_a_place_to_hang" in stacks
    assert "in hang" in stacks
    errors = capfd.readouterr().err
    assert "in hang" in errors
    assert "error: no progress" in errors
    helper.join()


def test_steps_and_changes_of_purpose_are_progress(tmp_path) -> None:
    def work(goodput) -> None:
        for step in range(1, 6):
            time.sleep(0.2)
            goodput.finish_step(step)
        for purpose in ("data_wait", "step", "data_wait", "step"):
            goodput.enter(purpose)
            time.sleep(0.2)

    assert _watch(tmp_path, WatchdogConfig(least_seconds=0.6), work) is None


@pytest.mark.parametrize("purpose", PURPOSES)
def test_what_may_take_long_and_what_may_not(purpose: str) -> None:
    config = WatchdogConfig(medians=10, least_seconds=300, slow_seconds=1800)
    allowed = config.allowed_seconds(purpose, 2.0)
    assert allowed == (300 if purpose in ("step", "replay", "data_wait") else 1800)
    assert config.allowed_seconds(purpose, 600.0) == 6000


def test_a_long_compilation_is_no_hang(tmp_path) -> None:
    def work(goodput) -> None:
        with goodput.spending("compile"):
            time.sleep(0.8)

    assert _watch(tmp_path, WatchdogConfig(least_seconds=0.2, slow_seconds=30), work) is None
    assert _watch(tmp_path, WatchdogConfig(least_seconds=0.2, slow_seconds=0.2), work) == 75


def test_limits_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="least_seconds=0"):
        WatchdogConfig(least_seconds=0.0)
