"""JSON files are read to their end: values of any form, one after the other."""

import gzip
import json

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.documents.document import Document, Rejected
from jaxgpt.corpus.readers.json_records import read_json, read_json_lines
from jaxgpt.corpus.readers.records import RecordFile
from jaxgpt.corpus.readers.sources import InputFile, SourcesConfig

FILE = InputFile("a.json", "a.json", "json", "", 0, "", "a.json")
BOM, NUL = b"\xef\xbb\xbf", b"\0\0\0\0\0"


class Chunks(list):
    """A stream without a problem."""

    problem = None


def read(reader, data, size=1 << 18, **config):
    file = RecordFile(FILE, SourcesConfig(**config))
    stream = Chunks(data[start : start + size] for start in range(0, len(data), size))
    records = list(reader(file, stream))
    return records, file.problem


def texts(records):
    return [record.text for record in records if isinstance(record, Document)]


def bad(records):
    return [
        (record.location, record.reason)
        for record in records
        if isinstance(record, Rejected) and record.is_bad
    ]


TEXTS = st.lists(st.text(st.sampled_from('ab"[]{},\\\n é')), max_size=3)
FORMS = {
    "array": lambda records: json.dumps(records),
    "indented array": lambda records: json.dumps(records, indent=1),
    "lines": lambda records: "\n".join(map(json.dumps, records)),
    "indented objects": lambda records: "\n".join(json.dumps(each, indent=1) for each in records),
    # A bracket at the beginning of a line begins no array of records here.
    "bracket on a line": lambda records: "\n".join(
        '{"tags":\n[\n"x"],\n' + json.dumps(each)[1:] for each in records
    ),
}
PARTS = st.lists(st.tuples(st.sampled_from(sorted(FORMS)), TEXTS), max_size=4)
JOINTS = st.sampled_from([b"\n", b"\r\n", b"\n \n", b"\n" + BOM, b"\n" + NUL, b"\n" + NUL + BOM])


@given(PARTS, JOINTS, st.integers(1, 40))
@settings(max_examples=400, deadline=None)
def test_values_of_all_forms_one_after_the_other_are_all_read(parts, joint, size):
    pieces = [FORMS[form]([{"text": text} for text in found]) for form, found in parts]
    records, problem = read(read_json, joint.join(piece.encode() for piece in pieces), size)
    assert texts(records) == [text for _, found in parts for text in found]
    assert len(records) == len(texts(records))
    assert problem is None


A, B, C = (json.dumps({"text": name}) for name in "abc")
AFTER_ARRAY = {
    "two arrays": f"[{A}]\n[{B}, {C}]",
    "two arrays on one line": f"[{A}][{B}, {C}]",
    "an empty array first": f"[]\n[{A}, {B}, {C}]",
    "lines after an array": f"[{A}]\n{B}\n{C}\n",
    "lines right after an array": f"[{A}]{B}\n{C}",
    "an array after lines": f"{A}\n{B}\n[{C}]",
    "objects without a newline between": f"{A}{B} {C}",
    "indented objects without a newline between": '{\n"text": "a"\n}{\n"text": "b"\n}' + C,
}


@pytest.mark.parametrize("data", AFTER_ARRAY.values(), ids=AFTER_ARRAY.keys())
def test_a_file_goes_on_after_its_first_value(data):
    records, problem = read(read_json, data.encode())
    assert (texts(records), bad(records), problem) == (["a", "b", "c"], [], None)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (f"[{A}],\n[{B}, {C}]", "a.json:1"),
        (f"[\n{A}\n]]\n[{B}, {C}]", "a.json:3"),
        (f"[{A}]\nnot json\n[{B}, {C}]", "a.json:2"),
        (f"{A}\n{B}\n" + '{"text": "cut", "tags": [\n' + C, "a.json:3"),
        (f"{A} and more\n{B}\n{C}", "a.json:1"),
    ],
)
def test_what_is_no_value_between_others_is_one_bad_record_and_costs_no_other(data, place):
    records, problem = read(read_json, data.encode())
    assert (texts(records), bad(records)) == (["a", "b", "c"], [(place, "malformed_json")])
    assert problem is None


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_members_of_an_archive_are_one_file(pack, tmp_path, monkeypatch):
    from jaxgpt.corpus.readers.readers import FileReader
    from jaxgpt.corpus.readers.sources import find_inputs

    monkeypatch.chdir(tmp_path)
    name = "a.json.gz" if pack is gzip.compress else "a.json.zst"
    (tmp_path / name).write_bytes(pack(f"[{A}]".encode()) + pack(f"[{B}, {C}]".encode()))
    reader = FileReader(find_inputs([name], tmp_path / "out").files[0], SourcesConfig())
    assert texts(reader) == ["a", "b", "c"]
    assert reader.problem is None


@pytest.mark.parametrize("joint", [BOM, NUL, NUL + BOM, b"\n" + BOM, b"\n" + NUL, b""])
@pytest.mark.parametrize("reader", [read_json, read_json_lines])
def test_lines_of_concatenated_files_are_all_read(reader, joint):
    data = (BOM + A.encode() + joint + B.encode() + b"\n") + (NUL + C.encode() + NUL)
    records, _ = read(reader, data)
    assert (texts(records), bad(records)) == (["a", "b", "c"], [])
