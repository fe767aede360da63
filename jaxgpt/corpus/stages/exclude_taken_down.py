"""The stage that excludes documents of earlier takedowns: a new crawl must not bring them back.

The content hash of a text that was taken down is kept in removed.jsonl.zst, and so are those of
documents that were removed in its favour, which have nearly the same text.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.corpus.dataset.listings import read_listing
from jaxgpt.corpus.documents.content_hash import HASH_BYTES
from jaxgpt.corpus.documents.partition import KEPT_NAME, Partition
from jaxgpt.corpus.execution.tasks import Task, TaskRunner
from jaxgpt.corpus.stages.documents import Documents
from jaxgpt.corpus.stats.account import Account
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME, DropLog
from jaxgpt.corpus.stats.stage_result import stage_result
from jaxgpt.data.shards import TokenDataset
from jaxgpt.storage.array_files import save_array

TAKEDOWN_OPERATION = "takedown"
TAKEDOWN_STAGE = "takedown"
TAKEDOWN_REASON = "takedown"
# Is true in the line of a document that had been removed before it was named in a takedown.
TAKEN_DOWN_KEY = "taken_down"
HASHES_NAME = "hashes.npy"
_COLUMNS = ("id", "location", "source", "num_bytes")


def exclude_taken_down(
    runner: TaskRunner, documents: Documents, stored: TokenDataset, account: Account
) -> Documents:
    """Drop the texts that were taken down from a dataset.

    Args:
        account: of the dataset.
    """
    num_takedowns = sum(entry["operation"] == TAKEDOWN_OPERATION for entry in account.history)
    if not num_takedowns:
        return documents
    task = Task(
        name="hashes",
        depends_on=[stored.manifest["fingerprint"], num_takedowns],
        arguments=(stored.directory.resolve() / REMOVED_NAME,),
        num_bytes=1,
    )
    (listed,) = runner.run("listing earlier takedowns", list_taken_down, [task])
    tasks = documents.tasks(lambda each: (each, listed.folder), listed.key)
    title = "excluding documents of earlier takedowns"
    return documents.masked_by(runner.run(title, leave_out_taken_down, tasks))


def list_taken_down(folder: Path, advance: Callable[[int], None], removed: Path) -> dict[str, Any]:
    """Write the hashes of documents that were taken down, uint8 [num, 16]."""
    # What an append has kept out is listed as taken down, too, and has no hash: the one that it
    # has is in the list.
    taken = {
        entry["location"]
        for entry in read_listing(removed)
        if is_taken_down(entry) and "hash" in entry
    }
    found: set[str] = set()
    num_before = -1
    # Of what was removed in favour of a copy the copy may be listed after it.
    while len(taken) > num_before:
        num_before = len(taken)
        for entry in read_listing(removed):
            is_copy = entry.get("kept_location") in taken
            if "hash" in entry and (is_copy or is_taken_down(entry)):
                taken.add(entry["location"])
                found.add(entry["hash"])
    digests = b"".join(map(bytes.fromhex, sorted(found)))
    save_array(folder / HASHES_NAME, np.frombuffer(digests, np.uint8).reshape(-1, HASH_BYTES))
    return {"num_hashes": len(found)}


def is_taken_down(entry: Mapping[str, Any]) -> bool:
    """Return whether a line of removed.jsonl.zst is of a document that was taken down."""
    return entry["stage"] == TAKEDOWN_STAGE or entry.get(TAKEN_DOWN_KEY, False)


def leave_out_taken_down(
    folder: Path, advance: Callable[[int], None], partition: Partition, listed: Path
) -> dict[str, Any]:
    """Write which rows of the partition are kept (bool), and the removed documents."""
    taken = {value.tobytes() for value in np.load(listed / HASHES_NAME, allow_pickle=False)}
    table = partition.table(("hash", *_COLUMNS))
    is_kept = np.array([digest.as_py() not in taken for digest in table["hash"]], bool)
    save_array(folder / KEPT_NAME, is_kept)
    with DropLog(folder, TAKEDOWN_STAGE) as log:
        for row in np.flatnonzero(~is_kept).tolist():
            log.drop(
                **{name: table[name][row].as_py() for name in _COLUMNS},
                reason=TAKEDOWN_REASON,
                detail="the same text was taken down before",
            )
    return stage_result(log.counts)
