"""The stage that keeps out what was taken down: a new crawl must not bring it back.

Of a text that was taken down its content hash remains, in removed.jsonl.zst.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.corpus.exact_duplicates import HASH_BYTES
from jaxgpt.corpus.finished import read_listing
from jaxgpt.corpus.partition import KEPT_NAME, Partition
from jaxgpt.corpus.removal import RemovalLog

STAGE = "takedown"
REASON = "takedown"
HASHES_NAME = "hashes.npy"
_COLUMNS = ("id", "location", "source", "num_bytes")


def list_taken_down(folder: Path, advance: Callable[[int], None], removed: Path) -> dict[str, Any]:
    """Kernel: write the hashes of what was taken down, uint8 [num, 16]."""
    found = [
        bytes.fromhex(entry["hash"])
        for entry in read_listing(removed)
        if entry["stage"] == STAGE and "hash" in entry
    ]
    hashes = np.frombuffer(b"".join(found), np.uint8).reshape(-1, HASH_BYTES)
    np.save(folder / HASHES_NAME, hashes)
    return {"num_hashes": len(found)}


def leave_out_taken_down(
    folder: Path, advance: Callable[[int], None], partition: Partition, listed: Path
) -> dict[str, Any]:
    """Kernel: write which rows of the partition are kept (bool), and the removed documents."""
    taken = {value.tobytes() for value in np.load(listed / HASHES_NAME, allow_pickle=False)}
    table = partition.table(("hash", *_COLUMNS))
    is_kept = np.array([digest.as_py() not in taken for digest in table["hash"]], bool)
    np.save(folder / KEPT_NAME, is_kept)
    with RemovalLog(folder, STAGE) as log:
        for row in np.flatnonzero(~is_kept).tolist():
            log.drop(
                **{name: table[name][row].as_py() for name in _COLUMNS},
                reason=REASON,
                detail="the same text was taken down before",
            )
    return log.result()
