"""Parquet of every encoding and any damage, in bounded memory."""

import io
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.readers import parquet_batches, parquet_records
from jaxgpt.corpus.readers.readers import FileReader
from jaxgpt.corpus.readers.sources import SourcesConfig, find_inputs
from tests.corpus.records import RECORDS, parquet_bytes, reasons, texts


def test_parquet_rows_keep_their_metadata(read, tmp_path):
    rows = [{"text": "t", "id": 5, "source": "s", "license": "MIT", "extra": 1.5}]
    ((document,), _) = read("a.parquet", parquet_bytes(rows, tmp_path))
    assert (document.id, document.source, document.license) == ("5", "s", "MIT")
    assert document.location == "a.parquet:1"


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary()])
def test_parquet_text_of_any_string_type(read, tmp_path, kind):
    pq.write_table(pa.table({"text": pa.array(["good", "café", None], kind)}), "a.parquet")
    records, _ = read("a.parquet", None)
    assert texts(records) == ["good", "café"]
    assert reasons(records) == [("a.parquet:3", "no_text")]


def test_parquet_text_that_is_not_utf8_is_passed_on_for_repair(read, tmp_path):
    broken = pa.array([b"good", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": broken}), "a.parquet")
    records, _ = read("a.parquet", None)
    assert texts(records) == ["good", "caf\udce9"]


def test_parquet_without_the_column_says_so_for_every_row(read, tmp_path):
    records, _ = read("a.parquet", parquet_bytes([{"body": "x"}] * 3, tmp_path))
    assert [reason for _, reason in reasons(records)] == ["no_text"] * 3
    assert "body" in records[0].detail


def test_parquet_in_many_row_groups(read, tmp_path):
    rows = [{"text": f"text {i}" * 50} for i in range(2000)]
    records, _ = read("a.parquet", parquet_bytes(rows, tmp_path, row_group_size=77))
    assert texts(records) == [row["text"] for row in rows]


def test_a_truncated_parquet_file_is_one_bad_record(read, tmp_path):
    data = parquet_bytes(RECORDS, tmp_path)
    records, problem = read("a.parquet", data[: len(data) // 2])
    assert reasons(records) == [("a.parquet:1", "unreadable_file")]
    assert records[0].is_bad
    assert problem == "unreadable"


def test_parquet_with_a_damaged_row_group_keeps_the_others(read, tmp_path):
    rows = [{"text": f"text {i * i}" * 20} for i in range(5000)]
    data = bytearray(parquet_bytes(rows, tmp_path, row_group_size=500, compression="zstd"))
    middle = len(data) // 2
    data[middle : middle + 20] = bytes(20)
    records, problem = read("a.parquet", bytes(data))
    assert problem == "truncated"
    found = texts(records)
    assert len(found) >= 4500
    assert set(found) < {row["text"] for row in rows}
    assert found[-1] == rows[-1]["text"]
    assert records[-1].location == "a.parquet:5000"
    assert [reason for _, reason in reasons(records)] == ["truncated_record"]


def test_a_parquet_text_beyond_the_limit_is_dropped_and_the_next_is_read(read, tmp_path):
    rows = [{"text": "before"}, {"text": "x" * 500}, {"text": "after"}]
    records, problem = read("a.parquet", parquet_bytes(rows, tmp_path), max_record_bytes=100)
    assert texts(records) == ["before", "after"]
    assert reasons(records) == [("a.parquet:2", "record_too_long")]
    assert problem is None


def test_the_limit_of_a_parquet_text_is_in_bytes_of_utf8(read, tmp_path):
    rows = [{"text": "é" * 50}, {"text": "é" * 51}, {"text": "x" * 100}, {"text": "x" * 101}]
    records, _ = read("a.parquet", parquet_bytes(rows, tmp_path), max_record_bytes=100)
    assert texts(records) == ["é" * 50, "x" * 100]
    broken = pa.array([b"\xe9" * 100, b"\xe9" * 101], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": broken}), "b.parquet")
    records, _ = read("b.parquet", None, max_record_bytes=100)
    assert texts(records) == ["\udce9" * 100]
    assert reasons(records) == [("b.parquet:2", "record_too_long")]


VALUES = st.lists(st.sampled_from([None, "", "a", "b", "caf\udce9", "é", "a longer one"]))


ENCODINGS = ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "RLE_DICTIONARY"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("column", ["text", "id"])
def test_parquet_of_every_encoding_of_strings(read, tmp_path, column, encoding):
    rows = [{"text": f"text {i}" * 20, "id": f"document {i}"} for i in range(500)]
    chosen = (
        {"use_dictionary": [column]}
        if encoding == "RLE_DICTIONARY"
        else {"use_dictionary": False, "column_encoding": {column: encoding}}
    )
    data = parquet_bytes(rows, tmp_path, data_page_version="2.0", **chosen)
    records, problem = read("a.parquet", data)
    assert texts(records) == [row["text"] for row in rows]
    assert [record.id for record in records] == [row["id"] for row in rows]
    assert problem is None


def test_parquet_that_arrow_cannot_read_is_called_so_and_counts_as_bad(read, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise pa.ArrowNotImplementedError("no such form")

    monkeypatch.setattr(parquet_batches.RowBatches, "of_group", refuse)
    records, problem = read("a.parquet", parquet_bytes(RECORDS, tmp_path))
    assert problem == "unreadable"
    assert [(record.reason, record.is_bad) for record in records] == [("unreadable_file", True)]


@given(VALUES, st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_parquet_values_that_repeat_are_one_object(values, batch_rows):
    stored = [each and each.encode("utf-8", "surrogateescape") for each in values]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array(stored, pa.binary()).view(pa.string())}), buffer)
    table = pq.ParquetFile(buffer, read_dictionary=["text"])
    found = []
    for batch in table.iter_batches(batch_rows):
        column = parquet_records._values(batch.column(0))
        assert len(set(map(id, column))) == len(set(column))
        found += column
    assert found == values


def test_a_large_parquet_row_group_is_never_in_memory_as_text_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = (f"{number} {number % 7}" * 1500 for number in range(5000))
    pq.write_table(pa.table({"text": list(rows)}), "a.parquet")
    (file,) = find_inputs(["a.parquet"], tmp_path / "out").files
    reader = FileReader(file, SourcesConfig())
    before_bytes = pa.total_allocated_bytes()
    num_bytes, num_arrow_bytes = 0, 0
    tracemalloc.start()
    for record in reader:
        num_bytes += len(record.text)
        num_arrow_bytes = max(num_arrow_bytes, pa.total_allocated_bytes() - before_bytes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reader.problem is None
    assert num_bytes > 40 << 20
    assert peak < 28 << 20
    # The whole text, were row groups read whole.
    assert num_arrow_bytes < 20 << 20


@pytest.mark.parametrize("num_short", [0, 2000])
def test_long_texts_of_a_parquet_dictionary_are_unfolded_few_at_a_time(
    tmp_path, monkeypatch, num_short
):
    monkeypatch.chdir(tmp_path)
    values = pa.array(["short", "x" * (6 << 20)])
    indices = pa.array([0] * num_short + [1] * 30)
    column = pa.DictionaryArray.from_arrays(indices, values).cast(pa.string())
    pq.write_table(pa.table({"text": column}), "a.parquet", dictionary_pagesize_limit=16 << 20)
    del column, values
    (file,) = find_inputs(["a.parquet"], tmp_path / "out").files
    before_bytes, num_arrow_bytes, num_records = pa.total_allocated_bytes(), 0, 0
    for _ in FileReader(file, SourcesConfig(max_expansion=1e6)):
        num_arrow_bytes = max(num_arrow_bytes, pa.total_allocated_bytes() - before_bytes)
        num_records += 1
    assert num_records == num_short + 30
    assert num_arrow_bytes < 100 << 20


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_parquet_bomb_is_stopped_in_bounded_memory(read, tmp_path, dictionary):
    """A few kilobytes that stand for 200 MB: one text 400 times, or all of them packed."""
    # Made of its parts: in one piece the table would be as large as what it unfolds to.
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 400), ["x" * 500_000])
    pq.write_table(
        pa.table({"text": texts}),
        tmp_path / "b.parquet",
        compression="zstd",
        use_dictionary=dictionary,
    )
    data = (tmp_path / "b.parquet").read_bytes()
    assert len(data) < 1 << 20
    pool_bytes = pa.default_memory_pool().bytes_allocated()
    tracemalloc.start()
    records, problem = read("a.parquet", data, max_expansion=200.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert problem == "expands_too_far"
    assert reasons(records)[-1][1] == "truncated_record"
    assert len(records) < 150
    assert peak < 100 << 20
    assert pa.default_memory_pool().bytes_allocated() - pool_bytes < 100 << 20
