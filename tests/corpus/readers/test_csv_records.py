"""Rows of CSV and TSV files: each becomes one document or one counted rejection, by its line."""

import csv
import gzip
import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.corpus.documents.document import Document, Rejected
from jaxgpt.corpus.readers.readers import FileReader
from jaxgpt.corpus.readers.sources import SourcesConfig, find_inputs

FIELD = st.text(alphabet="ab,;\t\"'\n é", max_size=8)


def read(folder, name, data, **settings):
    (folder / name).write_bytes(data)
    (file,) = find_inputs([str(folder / name)], folder / "out").files
    reader = FileReader(file, SourcesConfig(**settings))
    return list(reader), reader.problem and reader.problem.kind


def texts(records):
    return [record.text for record in records if isinstance(record, Document)]


def lines_of(records, reason):
    rejected = [record for record in records if isinstance(record, Rejected)]
    assert {record.reason for record in rejected} <= {reason}
    return [int(record.location.rsplit(":", 1)[1]) for record in rejected]


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv.gz", "\t")])
def test_rows_are_records_with_their_own_names(tmp_path, name, delimiter):
    rows = [["id", "body", "license"], ["x", "one\ntwo", "MIT"], ["", 'three, "four"', ""]]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter).writerows(rows)
    data = b"\xef\xbb\xbf" + buffer.getvalue().encode()
    packed = gzip.compress(data) if name.endswith(".gz") else data
    records, problem = read(tmp_path, name, packed, text_key="body")
    assert (texts(records), problem) == (["one\ntwo", 'three, "four"'], None)
    assert [(record.id, record.location.rsplit(":", 1)[1]) for record in records] == [
        ("x", "2"),
        (f"{tmp_path}/{name}:4", "4"),
    ]


@given(st.lists(FIELD, min_size=1, max_size=10))
def test_whatever_a_writer_quotes_comes_back(tmp_path_factory, given):
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([["text", "other"], *([text, "x"] for text in given)])
    folder = tmp_path_factory.mktemp("csv")
    records, problem = read(folder, "a.csv", buffer.getvalue().encode())
    assert (texts(records), problem) == (given, None)


def test_bad_rows_are_counted_by_line_and_the_others_are_kept(tmp_path):
    data = b'id,text\n1,good\n2\n3,"two\nlines"\n4,"stray"quote\n\n6,a,b\n7,last'
    records, problem = read(tmp_path, "a.csv", data)
    assert (texts(records), problem) == (["good", "two\nlines", "last"], None)
    assert lines_of(records, "malformed_csv") == [3, 6, 8]


@pytest.mark.parametrize("max_record_bytes", [200, 1 << 20])
def test_a_quote_that_nothing_closes_costs_one_row(tmp_path, max_record_bytes):
    rows = "".join(f"{number},text {number}\n" for number in range(100))
    data = f'id,text\nx,"open\n{rows}'.encode()
    records, _ = read(tmp_path, "a.csv", data, max_record_bytes=max_record_bytes)
    assert texts(records) == [f"text {number}" for number in range(100)]
    assert [record.location.rsplit(":", 1)[1] for record in records[:1]] == ["2"]
    assert isinstance(records[0], Rejected)


def test_a_row_beyond_the_limit_is_dropped(tmp_path):
    data = b"text\n" + b"x" * 500 + b"\nshort\n"
    records, _ = read(tmp_path, "a.csv", data, max_record_bytes=200)
    assert texts(records) == ["short"]
    assert lines_of(records, "record_too_long") == [2]


@pytest.mark.parametrize("end", ["plain row", '"quoted\nrow', '"quoted\nrow\n'])
def test_a_file_that_ends_early_keeps_its_whole_rows(tmp_path, end):
    rows = "".join(f"text {number}\n" for number in range(50))
    writer = gzip.compress((f"text\n{rows}{end}").encode(), 0)
    records, problem = read(tmp_path, "a.csv.gz", writer[:-8])
    assert problem == "truncated"
    assert texts(records) == [f"text {number}" for number in range(50)]
    assert lines_of(records, "truncated_record") == [52]


def test_a_file_without_the_column_says_which_it_has(tmp_path):
    records, _ = read(tmp_path, "a.csv", b"id,body\n1,a\n2,b\n")
    assert lines_of(records, "no_text") == [2, 3]
    assert "'text'" in records[0].detail
    assert "body" in records[0].detail


def test_quotes_that_may_all_be_stray_take_linear_time_and_no_line_is_lost_unseen(tmp_path):
    """Within quotes and outside of them, a line leaves the parser within quotes."""
    num_lines = 60_000
    data = b"a,b\n" + b'a","c\n' * num_lines
    start = time.process_time()
    records, _ = read(tmp_path, "a.csv", data)
    # Reading the rest of the file again for each line took minutes.
    assert time.process_time() - start < 20
    assert lines_of(records, "malformed_csv") == list(range(2, num_lines + 2))
