"""What a run writes about itself survives a full disk: nothing is lost that there is room for."""

import json
import resource
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from jaxgpt.training.metrics import MetricsLog, read_records
from tests.event_files import events_in, recorded_figures, shown_figures


@pytest.fixture
def limit():
    """Set the most bytes that a file may have; as on a full disk, writing more is an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size=None: resource.setrlimit(
        resource.RLIMIT_FSIZE, (soft if size is None else size, hard)
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_lines_that_a_full_disk_refuses_come_later_and_whole(tmp_path, limit, caplog) -> None:
    with MetricsLog(tmp_path, 0, tensorboard=False) as log:
        log.train({"step": 1, "loss": 0.5})
        limit(100)
        for step in range(2, 6):
            log.train({"step": step, "loss": 0.5})
        assert (tmp_path / "metrics.jsonl").stat().st_size == 100
        limit()
        log.train({"step": 6, "loss": 0.5})
        assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [
            1, 2, 3, 4, 5, 6
        ]  # fmt: skip
    assert caplog.text.count("cannot write to") == 1


def test_a_disk_that_stays_full_costs_the_last_lines_and_says_so(tmp_path, limit, caplog) -> None:
    limit(100)
    with MetricsLog(tmp_path, 0, tensorboard=False) as log:
        for step in range(1, 6):
            log.train({"step": step, "loss": 0.5})
    limit()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open() if "}" in line]
    assert [record["step"] for record in records] == [1]
    assert "4 records for" in caplog.text


def test_what_befell_a_process_stays_whatever_its_step(tmp_path) -> None:
    path = tmp_path / "events.jsonl"
    stay = ("start", "resume", "hang", "save_failed", "quarantine", "abandon", "stopped",
            "replicas_differ")  # fmt: skip
    again = ("skip", "sample", "save", "diverged", "rollback", "finished")
    lines = [{"event": name, "step": step} for name in (*stay, *again) for step in (4, 9)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with MetricsLog(tmp_path, 4, tensorboard=False) as log:
        log.event("resume", 4)
    kept = [line for line in lines if line["step"] == 4 or line["event"] in stay]
    *before, resumed = read_records(path)
    assert before == kept
    assert (resumed["event"], resumed["step"]) == ("resume", 4)


def test_every_record_has_its_time_and_numbers_that_are_numbers_or_null(tmp_path) -> None:
    began = datetime.now(UTC)
    with MetricsLog(tmp_path, 0, tensorboard=False) as log:
        log.train({"step": 1, "loss": float("nan"), "routing": {"load": [0.5, float("inf")]}})
        log.evaluation(1, {"loss": float("inf")})
        log.goodput(1, {"step": 1.5})
        log.event("skip", 1, loss=float("nan"), grad_norm=2.5)
    ended = datetime.now(UTC)
    lines = [*(tmp_path / "metrics.jsonl").open(), *(tmp_path / "events.jsonl").open()]
    train, evaluation, goodput, skip = (
        json.loads(line, parse_constant=pytest.fail) for line in lines
    )
    assert (train["loss"], train["routing"]["load"]) == (None, [0.5, None])
    assert evaluation["eval"]["loss"] is None
    assert (skip["loss"], skip["grad_norm"]) == (None, 2.5)
    for record in (train, evaluation, goodput, skip):
        time = datetime.fromisoformat(record["time"])
        assert began.replace(microsecond=0) <= time <= ended


def test_tensorboard_gets_every_number_and_hides_what_was_undone(tmp_path) -> None:
    with MetricsLog(tmp_path, 4, tensorboard=True) as log:
        log.train({"step": 5, "loss": 0.5, "mfu": None})
        log.evaluation(5, {"loss": 0.25})
    (path,) = (tmp_path / "tensorboard").iterdir()
    version, start, train, evaluation = events_in(path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (5, 1)
    scalars = [
        (event.step, {value.tag: value.simple_value for value in event.summary.value})
        for event in (train, evaluation)
    ]
    assert scalars == [(5, {"train/loss": 0.5}), (5, {"eval/loss": 0.25})]


def test_figures_for_tensorboard_that_a_full_disk_refuses_come_later(
    tmp_path, limit, caplog
) -> None:
    limit(2000)
    with MetricsLog(tmp_path, 0, tensorboard=True) as log:
        for step in range(1, 1000):  # more than any buffer or queue
            log.train({"step": step, "loss": 0.5})
        assert caplog.text.count("tfevents") == 1
        limit()
    assert len(read_records(tmp_path / "metrics.jsonl")) == 999
    assert shown_figures(tmp_path) == recorded_figures(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from jaxgpt.training.metrics import MetricsLog
with MetricsLog(Path(sys.argv[1]), int(sys.argv[2]), tensorboard=True) as log:
    for step in range(int(sys.argv[2]) + 1, int(sys.argv[2]) + 6):
        log.train({"step": step, "loss": step / 3, "routing": {"max_load": 1.5}})
    log.evaluation(step, {"loss": step / 7})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_tensorboard_shows_what_metrics_jsonl_has_after_kills(tmp_path) -> None:
    for last_step in (0, 3):
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(last_step)]
        assert subprocess.run(command).returncode == -signal.SIGKILL
    assert len(shown_figures(tmp_path)) == 8 * 2 + 1
    assert shown_figures(tmp_path) == recorded_figures(tmp_path)
