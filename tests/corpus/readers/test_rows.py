"""Rows: every format gives the same values, each with its place."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jaxgpt.corpus.documents.document import Rejected
from jaxgpt.corpus.readers.readers import FileReader
from jaxgpt.corpus.readers.rows import Row, RowFile
from jaxgpt.corpus.readers.sources import SourcesConfig, find_inputs
from jaxgpt.errors import UsageError

ROWS: list[dict[str, Any]] = [
    {"prompt": 'one, "two"\n漢', "completion": "三", "extra.column": "x"},
    {"prompt": "", "completion": "b", "extra.column": ""},
]
CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "漢"}, {"role": "assistant", "content": "x"}]},
    {"messages": []},
]


def read(path: Path, **settings: Any) -> list[Any]:
    (file,) = find_inputs([str(path)], None).files
    return list(FileReader(file, SourcesConfig(**settings), RowFile))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if ".parquet" in path.name:
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ".csv" in path.name:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif ".jsonl" in path.name:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows, indent=2))
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.compress(path.read_bytes()))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz", "a.csv", "a.parquet", "a.parquet.zst"])
def test_every_format_gives_the_same_values(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    read_rows = read(path)
    assert [row.values for row in read_rows] == ROWS
    assert [row.location.rpartition(":")[0] for row in read_rows] == [str(path)] * 2
    assert len({row.location for row in read_rows}) == 2


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.json", "a.parquet"])
def test_nested_values_are_kept(tmp_path: Path, name: str) -> None:
    assert [row.values for row in read(write(tmp_path / name, CHATS))] == CHATS


def test_a_line_that_is_no_object_is_rejected_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": \n[1]\n{"a": 2}\n')
    first, broken, other, last = read(path)
    assert (first.values, last.values) == ({"a": 1}, {"a": 2})
    assert [(each.location, each.reason) for each in (broken, other)] == [
        (f"{path}:2", "malformed_json"),
        (f"{path}:3", "not_an_object"),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_row_is_as_long_as_all_of_its_strings(tmp_path: Path, name: str) -> None:
    rows = [{"a": [{"b": "x" * 900}], "c": "y" * 900}, {"a": [{"b": "x"}], "c": "y"}]
    long, short = read(write(tmp_path / name, rows), max_record_bytes=1000)
    assert isinstance(long, Rejected)
    assert long.reason == "record_too_long"
    assert isinstance(short, Row)


def test_nested_text_that_is_not_utf8_ends_the_file_and_not_the_program(tmp_path: Path) -> None:
    raw = pa.array([b"ok", b"\xff"]).cast(pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), broken)
    pq.write_table(pa.table({"a": lists}), tmp_path / "a.parquet")
    (file,) = find_inputs([str(tmp_path / "a.parquet")], None).files
    reader = FileReader(file, SourcesConfig(), RowFile)
    *_, last = reader
    assert last.reason == "truncated_record"
    assert reader.problem is not None


def test_errors_name_the_option_that_files_were_given_with(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--data .*: no such file or folder"):
        find_inputs([str(tmp_path / "none.jsonl")], None, option="--data")
