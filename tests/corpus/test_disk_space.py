"""Room on the disk is forecast before anything is written."""

import json
import logging
import re
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import zstandard

import jaxgpt
from jaxgpt.config import replace
from jaxgpt.corpus.append import append_to_dataset
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.config import DatasetTokenizer
from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
from jaxgpt.corpus.disk_space import forecast_build, forecast_restoring
from jaxgpt.corpus.execution.config import ExecutorConfig
from jaxgpt.corpus.filters.config import FiltersConfig
from jaxgpt.corpus.readers.sources import find_inputs
from jaxgpt.corpus.readers.text_estimate import estimate_text
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import JaxgptError, UsageError
from jaxgpt.storage.array_files import save_array
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


def forecast(files, config=CONFIG):
    return forecast_build(estimate_text(files, config.sources), config)


def needed(config=CONFIG):
    return sum(forecast(find_inputs(["a.jsonl"], Path("out")).files, config).values())


def test_every_stage_that_runs_is_counted():
    files = find_inputs(["a.jsonl"], Path("out")).files
    assert set(forecast(files, CONFIG)) == {
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
        patch.setattr("jaxgpt.corpus.build.finalize_dataset", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_dataset(["a.jsonl"], Path("out"), CONFIG)
    written = sum(path.stat().st_size for path in Path("out/.work").rglob("*") if path.is_file())
    free(max(needed() - written, 0))
    build_dataset(["a.jsonl"], Path("out"), CONFIG)


SHORT = [
    {"text": f"a short text number {number} of {number * 7919 % 1013}"} for number in range(3000)
]
ALIKE = [
    {"text": " ".join(f"word{each}" for each in range(300)) + f" copy {number}"}
    for number in range(300)
]


@pytest.mark.parametrize("records", [SHORT, ALIKE], ids=["short texts", "near copies"])
@pytest.mark.parametrize("name", ["many.jsonl", "many.json", "many.jsonl.zst"])
def test_the_forecast_holds_whatever_the_size_of_documents(monkeypatch, records, name):
    text = json.dumps(records) if ".json." in f"{name}." else "\n".join(map(json.dumps, records))
    data = text.encode()
    Path(name).write_bytes(zstandard.compress(data) if name.endswith(".zst") else data)
    config = replace(CONFIG, tokenizer=DatasetTokenizer(vocab_size=400))
    files = find_inputs([name], Path("out")).files
    expected = sum(forecast(files, config).values())
    monkeypatch.setattr("jaxgpt.corpus.build.finalize_dataset", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_dataset([name], Path("out"), config)
    written = sum(path.stat().st_size for path in Path("out").rglob("*") if path.is_file())
    assert written <= 1.2 * expected
    assert expected <= 3 * written


@pytest.fixture
def small_disk(tmp_path):
    """Make a disk of a few kilobytes; small_disk(num_bytes) gives it another size."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")

    def resize(num_bytes):
        subprocess.run(["mount", "-o", f"remount,size={num_bytes}", str(folder)], check=True)

    yield resize
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full_is_said_at_every_stage_and_room_is_all_it_takes(small_disk):
    """Written through a mapping, a full disk ends the process with SIGBUS."""
    write_lines("short.jsonl", *SHORT)
    executor = ExecutorConfig(kind="serial", when_disk_is_small="warn")
    config = replace(CONFIG, executor=executor)
    build_dataset(["short.jsonl"], Path("expected/out"), config)
    errors, stages = [], set()
    for kilobytes in (64, 300, 2000, 4200, 4500):
        small_disk(kilobytes * 1024)
        try:
            build_dataset(["short.jsonl"], Path("small/out"), config)
        except JaxgptError as error:
            errors.append(error)
            stages.add(len(list(Path("small/out/.work").iterdir())))
    assert stages >= {1, 3}, "reading and signing"
    assert max(stages) > 9, "encoding and later"
    said = (
        r"the disk is full: cannot write below small/out: No space left on device; \S+ [kM]?B "
        r"are free, and the rest may take \S+ MB of \S+ MB \(reading .*, near duplicates .*\)\. "
        r"Finished work is kept: make room and run the same command again"
    )
    assert [str(error) for error in errors if not re.fullmatch(said, str(error))] == []
    assert {error.exit_code for error in errors} == {1}
    small_disk(64 << 20)
    build_dataset(["short.jsonl"], Path("small/out"), config)
    assert everything("small/out") == everything("expected/out")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3), np.uint32),
        np.array([True, False]),
        np.arange(6.0).reshape(2, 3).T,
        np.arange(7, dtype="<i8"),
    ],
)
def test_arrays_are_written_as_numpy_writes_them(array):
    save_array(Path("ours.npy"), array)
    np.save("numpys.npy", np.ascontiguousarray(array))
    assert Path("ours.npy").read_bytes() == Path("numpys.npy").read_bytes()


def test_no_array_is_written_through_a_mapping_or_without_the_number_of_the_error():
    package = Path(jaxgpt.__file__).parent
    unsafe = re.compile(
        r"open_memmap|\.tofile\((?!NEW_FILE)|np\.savez?\((?!index|buffer)|memmap\([^)]*[\"'](w\+|r\+)"
    )
    found = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if unsafe.search(path.read_text()) and "benchmarks" not in path.parts
    ]
    assert found == []
