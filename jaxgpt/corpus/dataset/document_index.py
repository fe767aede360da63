"""`documents.parquet`: the place and the origin of each document of a split. There is one row per
document, in the order of the shards. It keeps licence and source of each document, which can thus
be found, shown or taken down.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxgpt.corpus.documents.document_files import SCHEMA
from jaxgpt.corpus.execution.machine_errors import explain, is_fault_of_machine
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import MismatchError

INDEX_NAME = "documents.parquet"
NAMES = ("hash", "id", "location", "source", "license", "url")
INDEX_SCHEMA = pa.schema(
    [SCHEMA.field(name) for name in NAMES]
    # BOS and EOS count; bytes are those of the text as UTF-8.
    + [pa.field("num_tokens", pa.int64()), pa.field("num_bytes", pa.int64())]
)


def write_index(path: Path, names: pa.Table, num_tokens: np.ndarray, num_bytes: np.ndarray) -> None:
    """Write some rows as an Arrow file, on their way to the index."""
    columns = [names[name] for name in NAMES] + [pa.array(num_tokens), pa.array(num_bytes)]
    table = pa.table(columns, schema=INDEX_SCHEMA)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, INDEX_SCHEMA) as writer:
        writer.write_table(table)


def read_index(path: Path) -> pa.Table:
    """Read the rows that `write_index` wrote."""
    with pa.OSFile(str(path), "rb") as file:
        return pa.ipc.open_file(file).read_all()


class IndexWriter:
    """Writes the index of a split, which gets its name when it is complete."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / INDEX_NAME
        self._temporary = folder / f".{INDEX_NAME}.tmp"
        self._writer = pq.ParquetWriter(self._temporary, INDEX_SCHEMA, compression="zstd")

    def __enter__(self) -> "IndexWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._writer.close()
        if kind is not None:
            self._temporary.unlink()
            return
        with open(self._temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self._temporary, self._path)

    def add(self, rows: pa.Table) -> None:
        """Append the documents that come next in the shards."""
        if len(rows):
            self._writer.write_table(rows)

    def copy(self, dataset: Path, split: str) -> None:
        """Append the whole index of a finished dataset, group of rows by group of rows."""
        for number, _ in enumerate(index_groups(dataset, split)):
            self.add(pa.Table.from_batches(read_groups(dataset, split, [number]), INDEX_SCHEMA))


def index_groups(dataset: Path, split: str) -> Iterator[tuple[int, int, int]]:
    """Return (documents, tokens, bytes of text) of each row group of an index.

    Raises:
        MismatchError: as `index_rows`.
    """
    with _opened(dataset, split) as file:
        for number in range(file.num_row_groups):
            sizes = file.read_row_group(number, ["num_tokens", "num_bytes"])
            tokens, num_bytes = (column.to_numpy().sum() for column in sizes.columns)
            yield len(sizes), int(tokens), int(num_bytes)


def read_groups(dataset: Path, split: str, groups: Iterable[int]) -> Iterator[pa.RecordBatch]:
    """Read some row groups of an index.

    Raises:
        MismatchError: as `index_rows`.
    """
    with _opened(dataset, split) as file:
        for number in groups:
            yield from file.read_row_group(number).to_batches()


def index_rows(dataset: Path, split: str) -> Iterator[pa.RecordBatch]:
    """Yield the index of a split of a finished dataset, batch by batch.

    Raises:
        MismatchError: it has none, or it is damaged.
    """
    with _opened(dataset, split) as file:
        yield from file.iter_batches()


def check_index(dataset: TokenDataset, split: str, num_documents: int, num_tokens: int) -> None:
    """Raise MismatchError if an index that counts these is not that of the shards."""
    stored = dataset.splits[split]
    if (num_documents, num_tokens) != (stored.num_documents, stored.num_tokens):
        raise MismatchError(
            f"{dataset.directory}: the index of {split} has {num_documents} documents of "
            f"{num_tokens} tokens, its shards have {stored.num_documents} of "
            f"{stored.num_tokens}; build the dataset again"
        )


@contextlib.contextmanager
def _opened(dataset: Path, split: str) -> Iterator[pq.ParquetFile]:
    path = dataset / split / INDEX_NAME
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        if is_fault_of_machine(error):
            raise explain(error, str(path)) from error
        raise MismatchError(
            f"{path}: {error}; a dataset of an older version has none: build it again"
        ) from error
