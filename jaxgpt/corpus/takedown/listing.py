"""The listing and the counts of documents that are taken down."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from jaxgpt.corpus.dataset.document_index import index_rows
from jaxgpt.corpus.dataset.listings import read_listing
from jaxgpt.corpus.dataset.rewrite import Marked
from jaxgpt.corpus.documents.document import RemovedWriter
from jaxgpt.corpus.documents.splits import Assignment, HashAssignment
from jaxgpt.corpus.stages.exclude_taken_down import TAKEDOWN_REASON, TAKEDOWN_STAGE, TAKEN_DOWN_KEY
from jaxgpt.corpus.stats.account import Account
from jaxgpt.corpus.stats.counts import OTHER_SOURCES, make_sample
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from jaxgpt.corpus.takedown.selection import Named
from jaxgpt.data.shards import TokenDataset


def list_dropped(
    path: Path, dataset: TokenDataset, known: tuple[Account, Assignment], named: Named
) -> tuple[set[str], set[str]]:
    """List and count the documents that go, after all that were removed before.

    Returns:
        their ids and their locations.
    """
    account, assignment = known
    ids: set[str] = set()
    seen: set[tuple[bytes, str]] = set()
    with RemovedWriter(path) as removed:
        _copy_removed(removed, dataset, named)
        for row in _rows_that_go(dataset, named.marked):
            key = row["hash"], row["location"]
            if key in seen and isinstance(assignment, HashAssignment):
                _count_repeat(account, row)
                continue
            _count(account, row, is_first=key not in seen)
            if key not in seen:
                removed.write(
                    stage=TAKEDOWN_STAGE,
                    reason=TAKEDOWN_REASON,
                    hash=row["hash"].hex(),
                    id=row["id"],
                    location=row["location"],
                )
            ids.add(row["id"])
            seen.add(key)
    return ids, {location for _, location in seen}


def _copy_removed(output: RemovedWriter, dataset: TokenDataset, named: Named) -> None:
    """Copy the lines of what was removed before; mark the documents that are named."""
    listing = dataset.directory / REMOVED_NAME
    if not named.num_removed_before:
        output.copy(listing)
        return
    for entry in read_listing(listing):
        if named.is_removed_before(entry):
            entry[TAKEN_DOWN_KEY] = True
        output.write(**entry)


def _rows_that_go(dataset: TokenDataset, marked: Mapping[str, Marked]) -> Iterator[dict[str, Any]]:
    """Yield rows of the indexes. A document that is in both splits has one in each."""
    for split, each in marked.items():
        start = 0
        for batch in index_rows(dataset.directory, split):
            goes = each.goes_N[start : start + batch.num_rows]
            start += batch.num_rows
            yield from batch.filter(pa.array(goes)).to_pylist()


def _count(account: Account, row: Mapping[str, Any], is_first: bool) -> None:
    """Count a row that leaves the index: the first of its document, or more of its text."""
    tally, num_bytes = account.tally, row["num_bytes"]
    source = row["source"] if row["source"] in tally.sources else OTHER_SOURCES
    if is_first:
        sample = make_sample(row["location"], "", "")
        tally.count_dropped(source, TAKEDOWN_STAGE, TAKEDOWN_REASON, num_bytes, sample)
        tally.sources[source].kept -= 1
    else:
        tally.kept_bytes -= num_bytes
        tally.dropped_bytes[TAKEDOWN_REASON] += num_bytes
        tally.sources[source].dropped_bytes[TAKEDOWN_STAGE] += num_bytes
    tally.sources[source].num_bytes -= num_bytes
    tally.sources[source].num_tokens -= row["num_tokens"]


def _count_repeat(account: Account, row: Mapping[str, Any]) -> None:
    """Count a row that leaves the index: a second copy of its document."""
    tally = account.tally
    source = tally.sources[row["source"] if row["source"] in tally.sources else OTHER_SOURCES]
    source.num_repeats -= 1
    source.repeat_bytes -= row["num_bytes"]
    source.repeat_tokens -= row["num_tokens"]
