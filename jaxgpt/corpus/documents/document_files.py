"""Document files: documents as Arrow batches, partitioned by order in the dataset.

The position of a document in the dataset is a seeded hash of its content. Partition q holds the
q-th range of these hashes, so that partitions can be sorted one at a time, and copies of one text
always meet in one partition.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxgpt.corpus.documents.content_hash import HASH_BYTES, content_hash
from jaxgpt.corpus.documents.document import Document
from jaxgpt.corpus.documents.splits import draw

FILE_NAME = "documents.arrow"
SCHEMA = pa.schema(
    {
        "order": pa.uint64(),
        "hash": pa.binary(HASH_BYTES),
        "id": pa.string(),
        "location": pa.string(),
        "source": pa.string(),
        "license": pa.string(),
        "url": pa.string(),
        "num_bytes": pa.int64(),
        "text": pa.large_string(),
    }
)
# What one batch holds at most, unless one document is larger, and all buffers together.
_BATCH_BYTES = 4 << 20
_BUFFERED_BYTES = 32 << 20
# Memory of a document in addition to its text, in a buffer and in what a stage makes of a batch.
DOCUMENT_BYTES = 1 << 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocumentBatch:
    """Place of some documents of one partition in a part's file."""

    partition: int
    num_rows: int
    num_bytes: int


class DocumentWriter:
    """Writes the documents of one part, each into the batch of its partition.

    Attributes:
        batches: in the order of the file.
    """

    def __init__(self, folder: Path, num_partitions: int, seed: int) -> None:
        self.batches: list[DocumentBatch] = []
        self._seed = seed
        self._rows: list[list[tuple[Any, ...]]] = [[] for _ in range(num_partitions)]
        self._num_bytes = [0] * num_partitions
        self._num_buffered_bytes = 0
        self._file = pa.OSFile(str(folder / FILE_NAME), "wb")
        self._writer = pa.ipc.new_file(self._file, SCHEMA, options=write_options())

    def __enter__(self) -> "DocumentWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._flush_all()
                self._writer.close()
        finally:
            self._file.close()

    def write(
        self, document: Document, num_bytes: int, digest: bytes | None = None, copy: int = 0
    ) -> None:
        """Append a document whose text has `num_bytes` bytes.

        Args:
            digest: its content hash, if its text has been edited since that was taken.
            copy: number of the copy, of a document that comes several times.
        """
        if digest is None:
            digest = content_hash(document.text)
        order = draw(f"order {copy}" if copy else "order", self._seed, digest)
        partition = order * len(self._rows) >> 64
        row = (
            order,
            digest,
            document.id,
            document.location,
            document.source,
            document.license,
            document.url,
            num_bytes,
            document.text,
        )
        self._rows[partition].append(row)
        self._num_bytes[partition] += num_bytes
        self._num_buffered_bytes += num_bytes + DOCUMENT_BYTES
        if self._num_bytes[partition] + len(self._rows[partition]) * DOCUMENT_BYTES > _BATCH_BYTES:
            self._flush(partition)
        elif self._num_buffered_bytes > _BUFFERED_BYTES:
            self._flush_all()

    def _flush_all(self) -> None:
        for partition in range(len(self._rows)):
            self._flush(partition)

    def _flush(self, partition: int) -> None:
        rows = self._rows[partition]
        if not rows:
            return
        columns = [
            pa.array(values, field.type)
            for values, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        self.batches.append(
            DocumentBatch(
                partition=partition, num_rows=len(rows), num_bytes=self._num_bytes[partition]
            )
        )
        self._num_buffered_bytes -= self._num_bytes[partition] + len(rows) * DOCUMENT_BYTES
        self._rows[partition] = []
        self._num_bytes[partition] = 0


def write_options() -> pa.ipc.IpcWriteOptions:
    """Return the write options of Arrow files of documents."""
    return pa.ipc.IpcWriteOptions(
        compression=pa.Codec("zstd", compression_level=1), use_threads=False
    )


def hash_rows(batch: pa.RecordBatch) -> np.ndarray:
    """Return the hashes of a batch as uint8 [num_rows, 16]."""
    column = batch.column("hash")
    values = np.frombuffer(column.buffers()[1], dtype=np.uint8).reshape(-1, HASH_BYTES)
    return values[column.offset : column.offset + len(column)]
