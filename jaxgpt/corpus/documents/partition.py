"""Documents of one partition, in all their files, without those that were removed. A partition is
passed from stage to stage: one that removes documents adds a mask of the rows that stay, one that
changes texts stores the documents again.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from jaxgpt.corpus.documents.document_files import SCHEMA, DocumentBatch

KEPT_NAME = "kept.npy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Partition:
    """Documents of one partition; rows always come in the same order.

    Attributes:
        number: of the partition, from 0.
        files: Arrow files, and in each the batches that are of this partition.
        kept_files: `.npy` files of bool, one for each stage that removed documents; each is over
            the rows that the ones before it left.
        num_bytes: of text, before any was removed.
    """

    number: int
    files: tuple[tuple[Path, tuple[int, ...]], ...]
    kept_files: tuple[Path, ...] = ()
    num_bytes: int

    def batches(self, columns: Sequence[str] = SCHEMA.names) -> Iterator[pa.RecordBatch]:
        """Yield the documents that are still in; columns as in `parts.SCHEMA`."""
        is_kept = self._kept_rows()
        start = 0
        for batch in self._stored_batches(columns):
            stop = start + batch.num_rows
            yield batch if is_kept is None else batch.filter(pa.array(is_kept[start:stop]))
            start = stop

    def table(self, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
        """Return all documents that are still in; for small columns."""
        return pa.Table.from_batches(
            self.batches(columns), pa.schema([SCHEMA.field(name) for name in columns])
        )

    def num_rows(self) -> int:
        """Number of documents that are still in."""
        return sum(batch.num_rows for batch in self.batches(("num_bytes",)))

    def without(self, folder: Path) -> "Partition":
        """Return the partition after a stage that wrote the mask `KEPT_NAME` into `folder`."""
        return dataclasses.replace(self, kept_files=(*self.kept_files, folder / KEPT_NAME))

    def _stored_batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        fields = [SCHEMA.names.index(name) for name in columns]
        options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        for path, numbers in self.files:
            with pa.OSFile(str(path), "rb") as file:
                reader = pa.ipc.open_file(file, options=options)
                for number in numbers:
                    yield reader.get_batch(number)

    def _kept_rows(self) -> np.ndarray | None:
        """Return which stored rows are still in; None for all."""
        if not self.kept_files:
            return None
        is_kept, *later = (np.load(path, allow_pickle=False) for path in self.kept_files)
        for stays in later:
            rows = np.flatnonzero(is_kept)
            is_kept[rows[~stays]] = False
        return is_kept


def gather_partitions(
    files: Iterable[tuple[Path, Sequence[DocumentBatch]]], num_partitions: int
) -> list[Partition]:
    """Return the partitions that `DocumentWriter` spread over some files, with their batches."""
    found: list[list[tuple[Path, tuple[int, ...]]]] = [[] for _ in range(num_partitions)]
    num_bytes = [0] * num_partitions
    for path, batches in files:
        numbers: dict[int, list[int]] = {}
        for number, batch in enumerate(batches):
            numbers.setdefault(batch.partition, []).append(number)
            num_bytes[batch.partition] += batch.num_bytes
        for partition, those in numbers.items():
            found[partition].append((path, tuple(those)))
    return [
        Partition(number=number, files=tuple(found[number]), num_bytes=num_bytes[number])
        for number in range(num_partitions)
    ]
