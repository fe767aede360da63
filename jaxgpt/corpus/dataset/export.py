"""Export of a finished dataset's documents for other programs: Parquet, ArrayRecord. There is one
record per document, in the order of the shards, and one folder per split.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from jaxgpt.corpus.dataset.stored_documents import read_text, stored_documents
from jaxgpt.corpus.documents.splits import SPLITS
from jaxgpt.data.shards import TokenDataset
from jaxgpt.names.packages import import_package, install_advice
from jaxgpt.storage.new_folder import new_folder

Format = Literal["parquet", "arrayrecord"]
DEFAULT_FILE_BYTES = 2**28
RECORD_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "source": pa.string(),
        "license": pa.string(),
        "url": pa.string(),
        "text": pa.large_string(),
    }
)
_ROW_GROUP_BYTES = 8 << 20

Record = dict[str, str]


class RecordFile(Protocol):
    """Record file that is being written."""

    suffix: str

    def __init__(self, path: Path) -> None: ...

    def write(self, record: Record, num_bytes: int) -> None:
        """Append a record whose text has `num_bytes` bytes."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


class ParquetFile:
    """Parquet file: one row per record, columns as RECORD_SCHEMA, compressed with zstd."""

    suffix = ".parquet"

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, RECORD_SCHEMA, compression="zstd")
        self._records: list[Record] = []
        self._num_bytes = 0

    def write(self, record: Record, num_bytes: int) -> None:
        """Append a record; rows are written in groups of some megabytes."""
        self._records.append(record)
        self._num_bytes += num_bytes
        if self._num_bytes >= _ROW_GROUP_BYTES:
            self._write_group()

    def close(self) -> None:
        """Write the last group and the file's end."""
        if self._records:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._records, RECORD_SCHEMA))
        self._records, self._num_bytes = [], 0


class ArrayRecordFile:
    """ArrayRecord file: one JSON object in UTF-8 per document, with the names of RECORD_SCHEMA."""

    suffix = ".array_record"

    def __init__(self, path: Path) -> None:
        # Groups of one are what Grain wants: a record is read without its neighbours.
        advice = f"{install_advice()}, or choose --format parquet"
        module = import_package(
            "array_record.python.array_record_module", "--format arrayrecord", advice
        )
        self._writer = module.ArrayRecordWriter(str(path), "group_size:1")

    def write(self, record: Record, num_bytes: int) -> None:
        """Append a record."""
        self._writer.write(json.dumps(record, ensure_ascii=False).encode())

    def close(self) -> None:
        """Write the file's end."""
        self._writer.close()


_FILES: dict[Format, type[RecordFile]] = {"parquet": ParquetFile, "arrayrecord": ArrayRecordFile}


def export_dataset(
    dataset: TokenDataset,
    output: Path,
    format: Format,
    max_file_bytes: int = DEFAULT_FILE_BYTES,
) -> dict[str, dict[str, int]]:
    """Write all documents of a dataset to `output`, which appears when it is complete.

    Args:
        dataset: a finished dataset.
        output: folder; must not exist, or be empty. Files are `SPLIT/documents-00000.SUFFIX`.
        format: of the files.
        max_file_bytes: of text in a file; only one with a single document may have more.

    Returns:
        For each split `num_documents`, `num_bytes` of their texts, and `num_files`.

    Raises:
        UsageError: `output` cannot be used.
        MismatchError: a file of the dataset is missing or damaged.
    """
    tokenizer = dataset.load_tokenizer()

    def records(split: str) -> Iterator[tuple[Record, int]]:
        for document in stored_documents(dataset, split):
            record = {
                "id": document.id,
                "source": document.source,
                "license": document.license,
                "url": document.url,
                "text": read_text(dataset, tokenizer, document),
            }
            yield record, document.num_bytes

    with new_folder(output) as folder:
        counts = {}
        for split in SPLITS:
            (folder / split).mkdir()
            counts[split] = _write_files(
                records(split), folder / split, _FILES[format], max_file_bytes
            )
    return counts


def _write_files(
    records: Iterator[tuple[Record, int]],
    folder: Path,
    kind: type[RecordFile],
    max_file_bytes: int,
) -> dict[str, int]:
    """Write `documents-00000`, `documents-00001`, ...; return counts."""
    counts = {"num_documents": 0, "num_bytes": 0, "num_files": 0}
    file: RecordFile | None = None
    file_bytes = 0
    try:
        for record, num_bytes in records:
            if file is not None and file_bytes + num_bytes > max_file_bytes:
                file.close()
                file = None
            if file is None:
                file = kind(folder / f"documents-{counts['num_files']:05d}{kind.suffix}")
                file_bytes = 0
                counts["num_files"] += 1
            file.write(record, num_bytes)
            file_bytes += num_bytes
            counts["num_documents"] += 1
            counts["num_bytes"] += num_bytes
    finally:
        if file is not None:
            file.close()
    return counts
