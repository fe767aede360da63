"""Progress lines: often enough, with the time that is left."""

import itertools
import re

import pytest

from jaxgpt.reports import console
from jaxgpt.reports.console import ProgressLine, format_duration, track
from jaxgpt.training.metrics import TrainingProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is two seconds after the one before."""
    times = itertools.count(100.0, 2.0)
    monkeypatch.setattr(console.time, "monotonic", lambda: next(times))


def test_the_time_left_follows_from_the_time_taken(clock: None, capsys) -> None:
    line = ProgressLine(total=100, seconds=0.0)
    for done in (1, 2, 51, 100):
        line.show(done, f"{done}/100")
    # 2 seconds for one, then 4 for 50; nothing is known at first, nothing left at the end.
    assert capsys.readouterr().err.splitlines() == [
        "1/100",
        "2/100, 3 min left",
        "51/100, 4 s left",
        "100/100",
    ]


def test_lines_are_no_closer_than_the_interval_but_for_the_last(clock: None, capsys) -> None:
    line = ProgressLine(total=9, seconds=5.0)
    for done in range(1, 10):
        line.show(done, f"{done}/9")
    shown = [text.partition(",")[0] for text in capsys.readouterr().err.splitlines()]
    assert shown == ["1/9", "4/9", "7/9", "9/9"]
    ProgressLine(total=1, seconds=0.0, silent=True).show(1, "x")
    assert capsys.readouterr().err == ""


def test_tracking_yields_every_item_and_says_how_many_are_done(clock: None, capsys) -> None:
    assert list(track("abcdefghijkl", 12, "letters")) == list("abcdefghijkl")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1
    assert all(re.fullmatch(r"\d+/12 letters(, \d+ s left)?", line) for line in lines)
    assert list(track([], 0, "nothing")) == []


def test_training_shows_its_epoch(clock: None, capsys) -> None:
    record = {
        "tokens": 500,
        "loss": 1,
        "learning_rate": 1e-3,
        "grad_norm": 1,
        "tokens_per_second": 9,
    }
    TrainingProgress(num_steps=10, seconds=0.0, tokens_per_epoch=2000).show(4, record)
    assert capsys.readouterr().err.startswith("step 4/10 epoch 0.25 loss 1.0000 ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (300, "5 min"), (4000 + 3600, "2 h 7 min"), (200_000, "2 d 7 h")],
)
def test_durations_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
