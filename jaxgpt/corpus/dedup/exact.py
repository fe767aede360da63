"""Exact duplicates, found one partition at a time.

Copies of a text have one hash, so they lie in one partition, whichever files they came from.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxgpt.corpus.documents.content_hash import HASH_BYTES, choose_kept
from jaxgpt.corpus.documents.document_files import hash_rows
from jaxgpt.corpus.documents.partition import KEPT_NAME, Partition
from jaxgpt.corpus.stats.counts import MAX_SAMPLES
from jaxgpt.corpus.stats.drop_log import DropLog
from jaxgpt.corpus.stats.stage_result import stage_result
from jaxgpt.storage.array_files import save_array

EXACT_DUPLICATE = "exact_duplicate"
_COLUMNS = ("id", "location", "source", "num_bytes")


def deduplicate_partition(
    folder: Path,
    advance: Callable[[int], None],
    partition: Partition,
    older: Partition | None = None,
) -> dict[str, Any]:
    """Write which rows of the partition are kept (bool), and the removed documents.

    Args:
        older: the same partition of a dataset that exists already; its documents stay, and remove
            those that repeat them.
    """
    both = [each for each in (older, partition) if each is not None]
    hashes = [np.zeros((0, HASH_BYTES), dtype=np.uint8)]
    hashes += [hash_rows(batch) for each in both for batch in each.batches(("hash",))]
    names = pa.concat_tables([each.table(_COLUMNS) for each in both])
    num_rows = partition.num_rows()
    num_older = len(names) - num_rows

    def place_of(row: int) -> tuple[bool, str, str, int]:
        own_id, location = names["id"][row].as_py(), names["location"][row].as_py()
        file, _, line = location.rpartition(":")
        return row >= num_older, own_id, file, int(line)

    hashes_N = np.concatenate(hashes)
    kept_rows = choose_kept(hashes_N, place_of)[num_older:]
    is_kept = kept_rows == np.arange(num_older, num_older + num_rows)
    save_array(folder / KEPT_NAME, is_kept)
    removed_rows = np.flatnonzero(~is_kept).tolist()
    samples = dict(_texts(partition, removed_rows[:MAX_SAMPLES]))
    with DropLog(folder, "exact_duplicates") as log:
        for row in removed_rows:
            kept = {name: names[name][int(kept_rows[row])].as_py() for name in ("id", "location")}
            log.drop(
                **{name: names[name][num_older + row].as_py() for name in _COLUMNS},
                reason=EXACT_DUPLICATE,
                text=samples.get(row, ""),
                kept_id=kept["id"],
                kept_location=kept["location"],
                similarity=1.0,
                hash=hashes_N[num_older + row].tobytes().hex(),
                detail=f"same text as {kept['location']}",
            )
            advance(0)
    return stage_result(log.counts)


def _texts(partition: Partition, rows: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Return the texts of some rows, reading no further than the last of them."""
    start = 0
    for batch in partition.batches(("text",)) if rows else ():
        for row in rows:
            if start <= row < start + batch.num_rows:
                yield row, batch.column(0)[row - start].as_py()
        start += batch.num_rows
        if start > rows[-1]:
            return
