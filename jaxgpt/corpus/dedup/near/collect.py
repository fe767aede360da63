"""The stage that collects the data of documents in candidate clusters, for the comparison.

Sets of shingles and of passages go to files that are mapped into memory, so that a comparison reads
only the sets it asks for, however large a cluster is.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxgpt.corpus.dedup.near.join import CLUSTERS_NAME, DOCUMENTS_NAME, GROUPS_NAME
from jaxgpt.corpus.dedup.near.passages import write_passages
from jaxgpt.corpus.dedup.near.shingles import shingle
from jaxgpt.corpus.dedup.near.sign import SignedPartition
from jaxgpt.corpus.documents.content_hash import HASH_BYTES
from jaxgpt.corpus.documents.document import shorten
from jaxgpt.storage.mapped_files import map_array, map_npy

SHINGLES_NAME = "shingles.u64"
PASSAGES_NAME = "passages.u64"
MEMBERS_NAME = "members.arrow"
MEMBERS_SCHEMA = pa.schema(
    {
        "document": pa.int64(),
        "cluster": pa.int64(),
        "group": pa.int64(),
        "first_shingle": pa.int64(),
        "num_shingles": pa.int64(),
        "first_passage": pa.int64(),
        "num_passages": pa.int64(),
        "hash": pa.binary(HASH_BYTES),
        "id": pa.string(),
        "location": pa.string(),
        "source": pa.string(),
        "num_bytes": pa.int64(),
        "text": pa.string(),
    }
)
_STORED = ("hash", "id", "location", "source", "num_bytes")


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow file, not compressed, so that it can be mapped."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def map_table(path: Path) -> pa.Table:
    """Map a table, whose pages are read on access."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def collect_members(
    folder: Path,
    advance: Callable[[int], None],
    signed: SignedPartition,
    connected: Path,
    ngram: int,
) -> dict[str, Any]:
    """Write the documents of a partition that are in clusters, by group.

    members.arrow: rows as MEMBERS_SCHEMA, sorted by group; `text` is the beginning of the text.
    shingles.u64: their sets of shingles, each sorted; `first_shingle` is the place in the file.
    passages.u64: the same of their passages.
    """
    documents = map_npy(connected / DOCUMENTS_NAME)
    start, stop = np.searchsorted(documents, (signed.first, signed.stop))
    rows_N = documents[start:stop] - signed.first
    table = {
        name: map_npy(connected / file)[start:stop]
        for name, file in (
            ("document", DOCUMENTS_NAME),
            ("cluster", CLUSTERS_NAME),
            ("group", GROUPS_NAME),
        )
    }
    num_shingles, num_passages, stored, beginnings = [], [], [], []
    row = 0
    with (
        open(folder / SHINGLES_NAME, "wb") as shingles_file,
        open(folder / PASSAGES_NAME, "wb") as passages_file,
    ):
        for batch in signed.partition.batches((*_STORED, "text")) if len(rows_N) else ():
            first, end = np.searchsorted(rows_N, (row, row + batch.num_rows))
            chosen = batch.take(pa.array(rows_N[first:end] - row))
            texts = chosen.column("text").to_pylist()
            shingles = shingle(texts, ngram)
            for document in range(len(texts)):
                hashes = shingles.unique(document)
                num_shingles.append(len(hashes))
                shingles_file.write(hashes.astype("<u8").tobytes())
            for passages in write_passages(texts, ngram):
                num_passages.append(len(passages))
                passages_file.write(passages.astype("<u8").tobytes())
            stored.append(chosen.select(_STORED))
            beginnings += map(shorten, texts)
            row += batch.num_rows
            advance(sum(batch.column("num_bytes").to_pylist()))
    names = pa.Table.from_batches(stored, pa.schema([MEMBERS_SCHEMA.field(n) for n in _STORED]))
    columns = {
        **table,
        **_places("shingle", num_shingles),
        **_places("passage", num_passages),
        **{name: names[name] for name in _STORED},
        "text": beginnings,
    }
    members = pa.table({name: columns[name] for name in MEMBERS_SCHEMA.names}, MEMBERS_SCHEMA)
    order = np.argsort(table["group"], kind="stable")
    write_table(folder / MEMBERS_NAME, members.take(order))
    return {"num_documents": len(rows_N)}


def _places(name: str, sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the columns with the places of one kind of set in their file."""
    sizes_N = np.array(sizes, np.int64)
    return {f"first_{name}": np.cumsum(sizes_N) - sizes_N, f"num_{name}s": sizes_N}


class Collected:
    """Result of `collect_members` for a partition, read lazily."""

    def __init__(self, folder: Path) -> None:
        self._members = map_table(folder / MEMBERS_NAME)
        self._shingles = map_array(folder / SHINGLES_NAME, "<u8")
        self._passages = map_array(folder / PASSAGES_NAME, "<u8")

    def members(self, group: int) -> pa.Table:
        """Return the members of one group, rows as MEMBERS_SCHEMA."""
        groups = self._members["group"].to_numpy()
        start, stop = np.searchsorted(groups, (group, group + 1))
        return self._members.slice(start, stop - start)

    def shingles(self, first: int, num: int) -> np.ndarray:
        """Return one set of shingles: uint64, sorted."""
        return self._shingles[first : first + num]

    def passages(self, first: int, num: int) -> np.ndarray:
        """Return one set of passages: uint64, sorted."""
        return self._passages[first : first + num]
