"""What a run writes about itself survives a full disk: nothing is lost that there is room for."""

import json
import resource
import signal
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from jaxgpt.training.metrics import MetricsLog, read_records


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


def events_in(path: Path) -> list[Event]:
    data, events = path.read_bytes(), []
    while data:
        (size,) = struct.unpack("Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return events


def test_lines_that_a_full_disk_refuses_come_later_and_whole(tmp_path, limit, caplog) -> None:
    with MetricsLog(tmp_path, 0, tensorboard=False) as log:
        log.train({"step": 1, "loss": 0.5})
        limit(40)
        for step in range(2, 6):
            log.train({"step": step, "loss": 0.5})
        assert (tmp_path / "metrics.jsonl").stat().st_size == 40
        limit()
        log.train({"step": 6, "loss": 0.5})
        assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [
            1, 2, 3, 4, 5, 6
        ]  # fmt: skip
    assert caplog.text.count("cannot write to") == 1


def test_a_disk_that_stays_full_costs_the_last_lines_and_says_so(tmp_path, limit, caplog) -> None:
    limit(40)
    with MetricsLog(tmp_path, 0, tensorboard=False) as log:
        for step in range(1, 6):
            log.train({"step": step, "loss": 0.5})
    limit()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open() if "}" in line]
    assert [record["step"] for record in records] == [1]
    assert "4 lines for" in caplog.text


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
    assert read_records(path) == [*kept, {"event": "resume", "step": 4}]


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


def test_tensorboard_on_a_full_disk_stops_and_the_run_does_not(tmp_path, limit, caplog) -> None:
    limit(2000)
    with MetricsLog(tmp_path, 0, tensorboard=True) as log:
        for step in range(1, 1000):  # more than its buffer, and than any queue
            log.train({"step": step, "loss": 0.5})
        assert caplog.text.count("no more figures for TensorBoard: File too large") == 1
        limit()
    assert len(read_records(tmp_path / "metrics.jsonl")) == 999
