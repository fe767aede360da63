"""The amount of text in the input is estimated well enough to bound the work units."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jaxgpt.corpus.readers import streams
from jaxgpt.corpus.readers.sources import SourcesConfig, find_inputs
from jaxgpt.corpus.readers.text_estimate import TextEstimate, estimate_text
from jaxgpt.corpus.stages.read import PARTITION_BYTES, PARTITION_DOCUMENTS, plan_num_partitions
from tests.corpus.readers.test_streams import COMPRESS


def estimate(path):
    return estimate_text(find_inputs([str(path)], Path("out")).files, SourcesConfig())


def repetitive(num_records):
    """Lines of JSON that compress to less than a twentieth."""
    chooser = random.Random(0)
    lines = [f"line {number} " * 10 for number in range(5)]
    texts = ("\n".join(chooser.choices(lines, k=40)) for _ in range(num_records))
    return [json.dumps({"text": text}) for text in texts]


@pytest.mark.parametrize("compression", ["", ".gz", ".zst", ".xz"])
def test_what_a_file_unpacks_to_is_told_from_its_beginning(tmp_path, compression):
    records = repetitive(1500)
    data = "\n".join(records).encode()
    packed = COMPRESS[compression](data) if compression else data
    assert not compression or len(packed) < len(data) / 20
    path = tmp_path / f"a.jsonl{compression}"
    path.write_bytes(packed)
    found = estimate(path)
    assert 0.5 < found.num_bytes / len(data) < 2
    assert 0.5 < found.num_documents / len(records) < 2


def test_parquet_tells_its_rows_and_what_its_pages_unpack_to(tmp_path):
    texts = [json.loads(record)["text"] for record in repetitive(1500)]
    table = pa.table({"text": texts})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    found = estimate(tmp_path / "a.parquet")
    assert 0.5 < found.num_bytes / sum(map(len, texts)) < 2
    assert found.num_documents == pytest.approx(1500, rel=0.01)


def test_what_cannot_be_read_is_estimated_by_its_size(tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(b"no zstd" * 1000)
    (tmp_path / "b.parquet").write_bytes(b"no parquet" * 1000)
    found = estimate(tmp_path)
    assert found.num_bytes > 17_000
    assert found.num_documents > 0


@pytest.mark.parametrize(
    "error", [MemoryError(), zstandard.ZstdError("Allocation error"), OSError(5, "EIO")], ids=repr
)
def test_a_failing_machine_does_not_end_the_estimate(tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error

    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(b"text" * 100))
    monkeypatch.setattr(streams._ZstdFrame, "decompress", fail)
    assert estimate(tmp_path / "a.jsonl.zst").num_documents > 0


def test_partitions_are_bounded_by_documents_and_by_unpacked_bytes():
    def planned(num_bytes, num_documents):
        return plan_num_partitions(TextEstimate(num_bytes=num_bytes, num_documents=num_documents))

    assert planned(0, 0) == 1
    assert planned(10 * PARTITION_BYTES, 1) == 10
    assert planned(PARTITION_BYTES, 10 * PARTITION_DOCUMENTS) == 10
    assert planned(1 << 60, 1 << 60) == 1024


def test_a_small_file_that_unpacks_to_much_is_cut_into_partitions_for_what_it_unpacks_to(tmp_path):
    data = b"".join(b'{"text": "the same words over and over"}\n' for _ in range(20_000)) * 100
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(data))
    assert plan_num_partitions(estimate(tmp_path)) >= len(data) // PARTITION_BYTES // 2
