"""Documents one after the other: repaired, complete, and refused when too many are bad."""

import gzip
import json
from pathlib import Path

import pytest

from jaxgpt.corpus.iterate import read_documents
from jaxgpt.corpus.readers.sources import SourcesConfig, find_inputs
from jaxgpt.errors import BadInputError


def texts_of(folder: Path, **config: float) -> list[str]:
    inputs = find_inputs([str(folder)], folder / "output")
    return [document.text for document in read_documents(inputs, SourcesConfig(**config))]


def test_all_files_are_read_in_order_and_repaired(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\0" + 200 * b"." + b"\xff")
    records = [{"text": "first"}, {"text": "second \ud800" + 200 * "."}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)), "utf-8")
    assert texts_of(tmp_path) == [
        "first",
        "second \ufffd" + 200 * ".",
        "one\ntwo" + 200 * "." + "\ufffd",
    ]


def test_too_many_bad_records_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"text": \n{"text": "good"}\n', "utf-8")
    (tmp_path / "b.txt").write_bytes(b"\x80\x81\x82 not text")
    assert texts_of(tmp_path, max_bad_share=0.5) == ["good", "good"]
    with pytest.raises(BadInputError, match=r"2 of 4 records are bad .*a.jsonl:2: malformed_json"):
        texts_of(tmp_path)


def test_a_file_that_ends_early_gives_what_it_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = "".join(json.dumps({"text": f"record {number}"}) + "\n" for number in range(5000))
    whole = gzip.compress(records.encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    texts = texts_of(tmp_path)
    assert 1000 < len(texts) < 4000
    assert texts == [f"record {number}" for number in range(len(texts))]
    assert "a.jsonl.gz is truncated" in caplog.text


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="holds no file that can be read"):
        texts_of(tmp_path)


def test_a_file_of_which_nothing_can_be_read_counts_with_all_its_bytes(tmp_path: Path) -> None:
    records = "".join(json.dumps({"text": f"record {number}"}) + "\n" for number in range(500))
    (tmp_path / "a.jsonl").write_text(records)
    (tmp_path / "b.jsonl.gz").write_bytes(b"not gzip" * 200)
    with pytest.raises(
        BadInputError, match=r"nothing could be read of 1 file.*1[0-9]\.\d%.*b.jsonl"
    ):
        texts_of(tmp_path)
    assert len(texts_of(tmp_path, max_bad_share=0.2)) == 500
    (tmp_path / "b.jsonl.gz").write_bytes(b"not gzip")
    assert len(texts_of(tmp_path)) == 500
