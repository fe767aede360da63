"""Room on the disk is forecast before anything is written."""

import logging
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from jaxgpt.config import replace
from jaxgpt.corpus.appending import append_to_dataset
from jaxgpt.corpus.disk_space import forecast_build, forecast_restoring
from jaxgpt.corpus.executors.config import ExecutorConfig
from jaxgpt.corpus.filters.config import FiltersConfig
from jaxgpt.corpus.near_duplicates.config import NearDuplicatesConfig
from jaxgpt.corpus.pipeline import build_dataset
from jaxgpt.corpus.sources import find_inputs
from jaxgpt.errors import UsageError
from jaxgpt.shards import TokenDataset
from tests.corpus.building import CONFIG, everything, write_lines

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    write_lines("a.jsonl", *({"text": f"text {number} " * 100} for number in range(300)))


@pytest.fixture
def free(monkeypatch):
    """free(num_bytes): so much room is said to be on every disk."""

    def pretend(num_bytes):
        usage = Usage(1 << 50, 0, int(num_bytes))
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    return pretend


def needed(config=CONFIG):
    return sum(forecast_build(find_inputs(["a.jsonl"], Path("out")).files, config).values())


def test_every_stage_that_runs_is_counted():
    files = find_inputs(["a.jsonl"], Path("out")).files
    assert set(forecast_build(files, CONFIG)) == {
        "reading",
        "near duplicates",
        "encoding",
        "shards",
    }
    filtered = replace(CONFIG, filters=FiltersConfig(profile="web-any"))
    assert needed(filtered) > needed()
    without = replace(CONFIG, near_duplicates=NearDuplicatesConfig(enabled=False))
    assert needed(without) < needed()
    assert forecast_restoring(10, 1000, without) == {}
    assert sum(forecast_restoring(10, 1000, CONFIG).values()) > 1000


def test_enough_room_says_nothing_and_little_is_said(free, caplog):
    free(needed() * 2)
    with caplog.at_level(logging.WARNING):
        build_dataset(["a.jsonl"], Path("1/out"), CONFIG)
    assert "free" not in caplog.text
    free(needed() * 0.6)
    with caplog.at_level(logging.WARNING):
        build_dataset(["a.jsonl"], Path("2/out"), CONFIG)
    assert "2/out has " in caplog.text
    assert "reading " in caplog.text
    assert everything("1/out") == everything("2/out")


def test_too_little_room_is_refused_before_anything_is_written(free, caplog):
    free(needed() * 0.1)
    with pytest.raises(UsageError, match=r"free.*when-disk-is-small warn"):
        build_dataset(["a.jsonl"], Path("out"), CONFIG)
    assert everything("out") == {}
    executor = ExecutorConfig(kind="serial", when_disk_is_small="warn")
    with caplog.at_level(logging.WARNING):
        build_dataset(["a.jsonl"], Path("out"), replace(CONFIG, executor=executor))
    assert " free, and" in caplog.text
    write_lines("b.jsonl", {"text": "a text of its own"})
    before = everything("out")
    free(100)
    with pytest.raises(UsageError, match="restoring stored documents"):
        append_to_dataset(["b.jsonl"], Path("out"), CONFIG)
    assert everything("out") == before
    TokenDataset.open("out").verify()


def test_what_an_interrupted_build_has_written_needs_no_room_again(free, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("jaxgpt.corpus.pipeline.write_outcome", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_dataset(["a.jsonl"], Path("out"), CONFIG)
    written = sum(path.stat().st_size for path in Path("out/.work").rglob("*") if path.is_file())
    free(max(needed() - written, 0))
    build_dataset(["a.jsonl"], Path("out"), CONFIG)
