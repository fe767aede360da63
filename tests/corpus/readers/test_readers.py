"""Every kind of file, good and bad: each record becomes one document or one counted rejection."""

import gzip
import json
import tarfile
import zipfile

import pytest

from jaxgpt.corpus.documents.document import Document, Rejected
from jaxgpt.corpus.readers.readers import FileReader
from jaxgpt.corpus.readers.sources import SourcesConfig, find_inputs
from jaxgpt.errors import UsageError
from tests.corpus.records import PACK, RECORDS, json_lines, parquet_bytes, reasons, texts


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_records_of_every_kind_and_compression(read, tmp_path, kind, compression):
    data = {
        "jsonl": json_lines(*RECORDS),
        "json": json.dumps(RECORDS, indent=1).encode(),
        "parquet": parquet_bytes(RECORDS, tmp_path),
    }[kind]
    records, problem = read(f"a.{kind}{compression}", PACK[compression](data))
    assert texts(records) == ["text 0", "text 1", "text 2"]
    assert [record.id for record in records] == ["0", "1", "2"]
    assert problem is None


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("suffix", [".txt", ".md", ".rst", ".html", ".py"])
def test_a_text_file_is_one_document(read, suffix, compression):
    text = "line one\n\nline two\n"
    records, problem = read(f"a{suffix}{compression}", PACK[compression](text.encode()))
    assert (texts(records), problem) == ([text], None)
    assert records[0].id == records[0].location == f"a{suffix}{compression}:1"


def test_metadata_is_kept(read):
    record = {"id": 17, "text": "t", "source": "books", "license": "CC0-1.0", "other": [1]}
    ((document,), _) = read("a.jsonl", json_lines(record))
    assert (document.id, document.source, document.license) == ("17", "books", "CC0-1.0")
    assert document.location == "a.jsonl:1"


def test_without_metadata_the_place_speaks(read):
    for record in ({"text": "t"}, {"text": "t", "id": None, "source": 3.5, "license": ["x"]}):
        ((document,), _) = read("a.jsonl", json_lines(record))
        assert (document.id, document.source, document.license) == ("a.jsonl:1", "a.jsonl", "")


def test_the_text_key_can_be_chosen(read):
    records, _ = read("a.jsonl", json_lines({"content": "c", "text": "t"}), text_key="content")
    assert texts(records) == ["c"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "unfinished', "malformed_json"),
        (b"not json", "malformed_json"),
        (b'{"text": "t", "n": ' + b"9" * 5000 + b"}", "malformed_json"),
        (b'{"text": "t", "a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "malformed_json"),
        (b'["text"]', "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"17", "not_an_object"),
        (b"null", "not_an_object"),
        (b'{"body": "t"}', "no_text"),
        (b'{"text": null}', "no_text"),
        (b'{"text": 17}', "text_not_a_string"),
        (b'{"text": ["t"]}', "text_not_a_string"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_place_and_the_rest_is_read(read, line, reason):
    data = b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n'
    records, problem = read("a.jsonl", data)
    assert texts(records) == ["before", "after"]
    assert reasons(records) == [("a.jsonl:2", reason)]
    assert records[1].is_bad
    assert problem is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "good", "n": NaN, "m": Infinity}',
        b'{"text": "bad", "text": "good"}',
        b'\xef\xbb\xbf{"text": "good"}',
        b'  {"text": "good"}  \r',
    ],
)
def test_odd_but_clear_lines_are_read(read, line):
    records, _ = read("a.jsonl", line + b"\n\n  \n")
    assert texts(records) == ["good"]
    assert len(records) == 1


def test_a_record_ends_at_a_newline_only(read):
    text = "one\u2028two\u0085three\x0cfour\x1cfive"
    records, _ = read("a.jsonl", json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
    assert texts(records) == [text]


def test_a_last_line_without_newline_is_a_record(read):
    records, problem = read("a.jsonl", json_lines(*RECORDS)[:-1])
    assert (len(texts(records)), problem) == (3, None)


def test_what_was_not_utf8_and_lone_surrogates_are_passed_on_for_repair(read):
    data = b'{"text": "caf\xe9"}\n{"text": "half \\ud800"}\n{"text": "whole \\ud83c\\udf0d"}\n'
    records, _ = read("a.jsonl", data)
    assert texts(records) == ["caf\udce9", "half \ud800", "whole \U0001f30d"]


def test_a_line_beyond_the_limit_is_dropped_and_the_next_is_read(read):
    data = json_lines({"text": "before"}, {"text": "x" * 500}, {"text": "after"})
    records, _ = read("a.jsonl", data, max_record_bytes=100)
    assert texts(records) == ["before", "after"]
    assert reasons(records) == [("a.jsonl:2", "record_too_long")]
    assert not records[1].is_bad


@pytest.mark.parametrize("compression", [".gz", ".zst", ".xz"])
def test_a_truncated_file_keeps_its_good_lines_and_loses_the_partial_one(read, compression):
    number = {"text": "some text that is not all the same: "}
    lines = [number | {"text": number["text"] + str(i * i)} for i in range(20_000)]
    data = PACK[compression](json_lines(*lines))
    records, problem = read(f"a.jsonl{compression}", data[: len(data) * 3 // 4])
    assert problem == "truncated"
    found = texts(records)
    assert len(found) > 5_000
    assert found == [line["text"] for line in lines[: len(found)]]
    assert [reason for _, reason in reasons(records)] in ([], ["truncated_record"])
    assert all(not record.is_bad for record in records if isinstance(record, Rejected))


def test_a_truncated_text_keeps_its_whole_lines(read):
    text = "".join(f"line {i * i}\n" for i in range(5000))
    records, problem = read("a.txt.gz", gzip.compress(text.encode())[:-3000])
    assert problem == "truncated"
    (found,) = texts(records)
    assert text.startswith(found)
    assert found.endswith("\n")
    assert len(found) > 1000


def test_a_text_longer_than_a_record_becomes_several_documents(read):
    paragraphs = [f"paragraph {i}\nof two lines\n\n" for i in range(100)]
    records, _ = read("a.txt", "".join(paragraphs).encode(), max_record_bytes=500)
    assert "".join(texts(records)) == "".join(paragraphs)
    assert len(records) > 5
    assert all(record.text.endswith("\n\n") for record in records)
    lines = [1]
    for record in records:
        lines.append(lines[-1] + record.text.count("\n"))
    assert [record.id for record in records] == [f"a.txt:{line}" for line in lines[:-1]]


def test_an_empty_text_is_a_document_without_text(read):
    assert texts(read("a.txt", b"")[0]) == [""]
    assert read("a.jsonl", b"")[0] == []
    assert read("a.json", b" \n")[0] == []


def test_json_lines_under_the_name_of_json(read):
    records, _ = read("a.json", json_lines(*RECORDS) + b"bad\n")
    assert texts(records) == ["text 0", "text 1", "text 2"]
    assert reasons(records) == [("a.json:4", "malformed_json")]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_single_object_is_one_record(read, indent):
    records, _ = read("a.json", json.dumps(RECORDS[1], indent=indent).encode())
    assert texts(records) == ["text 1"]


def test_json_lines_whose_first_line_is_bad(read):
    records, _ = read("a.json", b'{"text": "bad\n' + json_lines(*RECORDS))
    assert texts(records) == ["text 0", "text 1", "text 2"]
    assert reasons(records) == [("a.json:1", "malformed_json")]


def test_an_array_keeps_its_good_elements(read):
    data = b'[{"text": "a"}, 17,\n {"text": "b"}, {"text": 1}, {"text": "cut'
    records, problem = read("a.json", data)
    assert texts(records) == ["a", "b"]
    assert reasons(records) == [
        ("a.json:1#2", "not_an_object"),
        ("a.json:2#2", "text_not_a_string"),
        ("a.json:2#3", "truncated_record"),
    ]
    assert problem == "truncated"


@pytest.mark.parametrize(
    ("name", "data", "locations"),
    [
        ("a.json", b'[{"text": "a"}, {"text": "b"},\n{"text": "c"}]', ["1", "1#2", "2"]),
        ("a.jsonl", b'{"text": "a"}{"text": "b", "id": "own"}\n{"text": "c"}', ["1", "1#2", "2"]),
        ("a.txt", b"words " * 30, ["1", "1#2", "1#3"]),
    ],
)
def test_no_two_records_have_one_location(read, name, data, locations):
    records, _ = read(name, data, max_record_bytes=70)
    assert [record.location for record in records] == [f"{name}:{each}" for each in locations]
    assert all(record.id in (record.location, "own") for record in records)


@pytest.mark.parametrize(
    ("name", "data", "num_whole"),
    [
        ("a.jsonl.gz", gzip.compress(json_lines(*RECORDS), mtime=0)[:-12], 2),
        ("a.json.gz", gzip.compress(json.dumps(RECORDS).encode(), mtime=0)[:-12], 2),
        ("a.json", json.dumps(RECORDS).encode()[:-4], 2),
        ("a.txt.gz", gzip.compress(b"a line\nanother\n", mtime=0)[:-10], 0),
        ("a.jsonl.gz", b"", 0),
        ("a.parquet", b"PAR1 and no more", 0),
    ],
)
def test_of_a_damaged_file_only_whole_records_count(tmp_path, monkeypatch, name, data, num_whole):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(data)
    reader = FileReader(find_inputs([name], tmp_path / "out").files[0], SourcesConfig())
    records = list(reader)
    assert reader.problem is not None
    assert reader.num_whole_records == num_whole
    assert len(records) > num_whole


def test_a_file_that_vanishes_is_one_bad_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text", "utf-8")
    (file,) = find_inputs(["a.txt"], tmp_path / "out").files
    (tmp_path / "a.txt").unlink()
    reader = FileReader(file, SourcesConfig())
    assert [record.reason for record in reader] == ["unreadable_file"]
    assert reader.problem is not None


def test_one_bad_row_in_a_hundred_thousand_is_named_and_all_others_are_read(read):
    lines = [b'{"text": "%d"}\n' % number for number in range(100_000)]
    lines[65_432] = b'{"text": "cut in\n'
    records, problem = read("a.jsonl.gz", PACK[".gz"](b"".join(lines)))
    assert problem is None
    assert reasons(records) == [("a.jsonl.gz:65433", "malformed_json")]
    assert [record.text for record in records if isinstance(record, Document)] == [
        str(number) for number in range(100_000) if number != 65_432
    ]


def test_archives_are_not_unpacked_whatever_their_members_are_called(read, tmp_path):
    """No format that holds files is read, so that no name in it can lead elsewhere."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../outside.txt", "escaped")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        (tmp_path / "inside.txt").write_text("escaped", "utf-8")
        archive.add(tmp_path / "inside.txt", "../outside.txt")
    before = sorted(tmp_path.parent.iterdir())
    for name in ("a.zip", "a.tar.gz"):
        with pytest.raises(UsageError, match="not a kind of file that can be read"):
            read(name, None)
    found = find_inputs([str(tmp_path)], tmp_path / "out")
    assert [file.name for file in found.files] == [str(tmp_path / "inside.txt")]
    assert found.skipped == {"unknown_kind": 2}
    assert sorted(tmp_path.parent.iterdir()) == before
