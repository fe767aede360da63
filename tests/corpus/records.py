"""Records to write into files, and those that were read out of them."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from jaxgpt.corpus.documents.document import Document, Rejected


def texts(records):
    return [record.text for record in records if isinstance(record, Document)]


def reasons(records):
    return [(record.location, record.reason) for record in records if isinstance(record, Rejected)]


def json_lines(*records):
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
RECORDS = [{"id": str(i), "text": f"text {i}"} for i in range(3)]


def parquet_bytes(rows, tmp_path, **options):
    path = tmp_path / "made.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path.read_bytes()
