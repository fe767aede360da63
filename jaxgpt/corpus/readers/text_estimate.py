"""Estimate of the text and the number of documents in input files, by the beginnings of some.

Only the size of work units and the forecast of disk space depend on it.
"""

import dataclasses
import zlib
from collections import defaultdict
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from jaxgpt.corpus.readers.sources import InputFile, SourcesConfig
from jaxgpt.corpus.readers.streams import CHUNK_BYTES, ByteStream

# Size of a web page, for files of which nothing can be read.
_USUAL_BYTES = 2700
_MAX_SAMPLED = 16
# Limit for one file: a small part of it may unpack to very much.
_MAX_UNPACKED_BYTES = 32 << 20
_MAX_BYTES = 1 << 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEstimate:
    """Estimated bytes of text, unpacked, and estimated number of documents."""

    num_bytes: int
    num_documents: int

    def add(self, num_bytes: int, num_documents: int) -> "TextEstimate":
        """Return the estimate with text whose size is known."""
        return TextEstimate(
            num_bytes=self.num_bytes + num_bytes, num_documents=self.num_documents + num_documents
        )


@dataclasses.dataclass(frozen=True)
class _Sample:
    """Figures from the beginning of a file.

    Attributes:
        expansion: unpacked bytes for each stored byte; None if it cannot be told.
        document_bytes: unpacked bytes of a document; None if it cannot be told.
    """

    expansion: float | None = None
    document_bytes: float | None = None


def estimate_text(files: Sequence[InputFile], config: SourcesConfig) -> TextEstimate:
    """Estimate the text that files hold from a few files of each kind."""
    groups: dict[tuple[str, str], list[InputFile]] = defaultdict(list)
    for file in files:
        groups[file.kind, file.compression].append(file)
    total = TextEstimate(num_bytes=0, num_documents=0)
    for group in groups.values():
        found = _estimate_group(group, config)
        total = total.add(found.num_bytes, found.num_documents)
    return total


def _estimate_group(files: Sequence[InputFile], config: SourcesConfig) -> TextEstimate:
    """Return the estimate for files of one kind and compression."""
    is_text = files[0].kind == "text"
    num_stored = sum(file.size for file in files)
    if is_text and not files[0].compression:
        return TextEstimate(num_bytes=num_stored, num_documents=len(files))
    every = -(-len(files) // _MAX_SAMPLED)
    sampled = files[::every]
    samples = [_look_into(file, config) for file in sampled]
    known = [
        (file.size, file.size * sample.expansion)
        for file, sample in zip(sampled, samples, strict=True)
        if sample.expansion is not None
    ]
    if stored := sum(size for size, _ in known):
        num_bytes = int(num_stored * sum(unpacked for _, unpacked in known) / stored)
    else:
        num_bytes = sum(file.estimated_text_bytes for file in files)
    if is_text:
        return TextEstimate(num_bytes=num_bytes, num_documents=len(files))
    sizes = [each.document_bytes for each in samples if each.document_bytes] or [_USUAL_BYTES]
    # The mean of documents per byte, as the sizes of documents differ from file to file.
    documents_per_byte = sum(1 / size for size in sizes) / len(sizes)
    return TextEstimate(
        num_bytes=num_bytes, num_documents=int(num_bytes * documents_per_byte) + len(files)
    )


def _look_into(file: InputFile, config: SourcesConfig) -> _Sample:
    """Return the figures from the beginning of a file; none if it cannot be read."""
    try:
        with file.open() as raw:
            if file.kind == "parquet":
                # A packed one cannot be read from its beginning.
                return _Sample() if file.compression else _of_parquet(pq.ParquetFile(raw), file)
            stream = ByteStream(
                raw, file.compression, _MAX_BYTES, _MAX_BYTES, config.max_window_bytes
            )
            mark = b"\n" if file.kind != "json" else f'"{config.text_key}"'.encode()
            return _of_beginning(stream, mark)
    except (OSError, MemoryError, pa.ArrowException, zlib.error, zstandard.ZstdError):
        # The stage that reads the file says what is wrong with it.
        return _Sample()


def _of_parquet(table: pq.ParquetFile, file: InputFile) -> _Sample:
    metadata = table.metadata
    groups = range(metadata.num_row_groups)
    num_bytes = sum(metadata.row_group(group).total_byte_size for group in groups)
    num_bytes = max(num_bytes, file.size)
    if not metadata.num_rows:
        return _Sample(expansion=1.0)
    return _Sample(
        expansion=num_bytes / max(file.size, 1), document_bytes=num_bytes / metadata.num_rows
    )


def _of_beginning(stream: ByteStream, mark: bytes) -> _Sample:
    """Return the figures from the first stored bytes of a stream; a document has one `mark`."""
    num_bytes = num_marks = 0
    for chunk in stream:
        num_bytes += len(chunk)
        num_marks += chunk.count(mark)
        if stream.num_read_bytes > CHUNK_BYTES or num_bytes > _MAX_UNPACKED_BYTES:
            break
    if not num_bytes:
        return _Sample()
    return _Sample(
        expansion=num_bytes / stream.num_read_bytes, document_bytes=num_bytes / max(num_marks, 1)
    )
