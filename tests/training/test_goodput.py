"""Every moment belongs to one purpose, over all processes of a run."""

import json
import subprocess
import sys
import time

import pytest

from jaxgpt.training.goodput import FILE_NAME, PURPOSES, GoodputTracker, process_start


class _Clock:
    """Time that passes when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: self.now + 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    return _Clock(monkeypatch)


def test_purposes_nest_and_sum_to_the_time_that_passed(clock) -> None:
    goodput = GoodputTracker(began=990.0)
    clock.now += 5
    goodput.enter_step(1)
    clock.now += 2
    with goodput.spending("eval"):
        clock.now += 7
        with goodput.spending("save"):
            clock.now += 1
        clock.now += 1
    clock.now += 3
    seconds = goodput.seconds()
    assert seconds["init"] == 15
    assert (seconds["step"], seconds["eval"], seconds["save"]) == (5, 8, 1)
    assert sum(seconds.values()) == clock.now - 990
    assert goodput.record()["goodput"] == pytest.approx(5 / 29, abs=1e-4)


def test_an_error_ends_a_purpose_too(clock) -> None:
    goodput = GoodputTracker()
    with pytest.raises(RuntimeError), goodput.spending("eval"):
        raise RuntimeError
    assert goodput.purpose == "init"


def test_a_process_killed_at_once_leaves_no_gap(clock, tmp_path) -> None:
    with GoodputTracker(tmp_path).written():
        clock.now += 4  # and it is killed, before anything else is written
        second = GoodputTracker(tmp_path, began=clock.now - 1)
    assert second.seconds()["down"] == pytest.approx(3)


def test_another_process_goes_on_with_it(clock, tmp_path) -> None:
    first = GoodputTracker(tmp_path)
    for step in range(1, 11):
        first.enter_step(step)
        clock.now += 1
        first.finish_step(step)
    first.write()
    clock.now += 4  # killed here at the latest; nobody saw what it did since
    clock.now += 30
    second = GoodputTracker(tmp_path, began=clock.now - 2)
    for step in range(7, 13):
        second.enter_step(step)
        clock.now += 1
        second.finish_step(step)
    seconds = second.seconds()
    assert seconds["down"] == pytest.approx(32)
    assert seconds["init"] == pytest.approx(2)
    assert (seconds["step"], seconds["replay"]) == (12, 4)
    assert sum(seconds.values()) == pytest.approx(clock.now - 1000)


@pytest.mark.parametrize("content", ["", "{", '{"version": 99}', '{"version": 1}', "[]"])
def test_an_account_that_cannot_be_read_begins_anew(tmp_path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    assert sum(GoodputTracker(tmp_path).seconds().values()) < 5


def test_a_folder_that_cannot_be_written_costs_no_run(tmp_path) -> None:
    GoodputTracker(tmp_path / "missing").write()


def test_the_pace_is_that_of_steps_alone(clock) -> None:
    goodput = GoodputTracker()
    for step in range(1, 6):
        clock.now += 2
        goodput.finish_step(step)
    goodput.discard_next_duration()
    clock.now += 500
    goodput.finish_step(6)
    assert goodput.median_step_seconds == 2
    assert goodput.idle_seconds() == 0
    assert goodput.steps_done == 6


def test_a_process_knows_when_it_began() -> None:
    program = (
        "import time, json; time.sleep(0.5); "
        "from jaxgpt.training.goodput import process_start; "
        "print(json.dumps(time.monotonic() - process_start()))"
    )
    before = time.monotonic()
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    whole = time.monotonic() - before
    assert 0.5 <= json.loads(result.stdout) <= whole + 0.05
    assert process_start() <= time.monotonic()
    assert len(set(PURPOSES)) == len(PURPOSES)
