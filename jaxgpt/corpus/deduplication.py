"""The stage that removes exact duplicates, one partition at a time.

Copies of a text have one hash, so they lie in one partition, whichever files they came from.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxgpt.corpus.document import RemovedWriter
from jaxgpt.corpus.exact_duplicates import HASH_BYTES, choose_kept
from jaxgpt.corpus.parts import Part, hash_rows, read_partition
from jaxgpt.corpus.reading import REMOVED_NAME
from jaxgpt.corpus.tally import MAX_SAMPLES, make_sample

KEPT_NAME = "kept.npy"
REASON = "exact_duplicate"


def remove_duplicates(
    folder: Path, advance: Callable[[int], None], parts: Sequence[Part], partition: int
) -> dict[str, Any]:
    """Kernel: write which rows of the partition are kept (bool), and the removed documents."""
    hashes = [np.zeros((0, HASH_BYTES), dtype=np.uint8)]
    names = []
    for batch in read_partition(parts, partition, ("hash", "id", "location")):
        hashes.append(hash_rows(batch))
        names.append(batch.select(["id", "location"]))
        advance(0)
    table = pa.Table.from_batches(names) if names else None

    def name_of(row: int) -> tuple[str, str]:
        assert table is not None
        return table["id"][row].as_py(), table["location"][row].as_py()

    def place_of(row: int) -> tuple[str, str, int]:
        own_id, location = name_of(row)
        file, _, line = location.rpartition(":")
        return own_id, file, int(line)

    kept_rows = choose_kept(np.concatenate(hashes), place_of)
    is_kept = kept_rows == np.arange(len(kept_rows))
    np.save(folder / KEPT_NAME, is_kept)
    samples: dict[int, dict[str, str]] = {}
    with RemovedWriter(folder / REMOVED_NAME) as removed:
        for row in np.flatnonzero(~is_kept):
            own_id, location = name_of(int(row))
            kept_id, kept_location = name_of(int(kept_rows[row]))
            removed.write(
                id=own_id,
                stage="exact_duplicates",
                reason=REASON,
                kept_id=kept_id,
                similarity=1.0,
                location=location,
            )
            if len(samples) < MAX_SAMPLES:
                samples[int(row)] = make_sample(location, f"same text as {kept_location}", "")
    for row, text in _texts(parts, partition, set(samples)):
        samples[row] = make_sample(samples[row]["location"], samples[row]["detail"], text)
    dropped = Counter({REASON: int((~is_kept).sum())} if samples else {})
    return {"dropped": dropped, "samples": {REASON: list(samples.values())} if samples else {}}


def kept_batches(
    parts: Sequence[Part], partition: int, kept_file: Path, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The batches of a partition without the rows that were removed."""
    is_kept = np.load(kept_file, allow_pickle=False)
    start = 0
    for batch in read_partition(parts, partition, columns):
        stop = start + batch.num_rows
        yield batch.filter(pa.array(is_kept[start:stop]))
        start = stop


def _texts(parts: Sequence[Part], partition: int, rows: set[int]) -> Iterator[tuple[int, str]]:
    """The texts of some rows, reading no further than the last of them."""
    start = 0
    for batch in read_partition(parts, partition, ("text",)) if rows else ():
        for row in sorted(rows):
            if start <= row < start + batch.num_rows:
                yield row, batch.column(0)[row - start].as_py()
        start += batch.num_rows
        if start > max(rows):
            return
