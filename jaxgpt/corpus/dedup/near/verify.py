"""The stage that verifies candidate clusters and selects the documents that stay.

Axes: N documents of the clusters of one group.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxgpt.corpus.dedup.near.collect import Collected, map_table, write_table
from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
from jaxgpt.corpus.dedup.near.lsh import band_keys
from jaxgpt.corpus.dedup.near.selection import Members, SelectedMembers, rank, select
from jaxgpt.corpus.dedup.near.sign import SIGNATURES_NAME, SignedPartition
from jaxgpt.corpus.documents.content_hash import HASH_BYTES
from jaxgpt.corpus.stats.near_duplicate_examples import choose_examples

REMOVED_NAME = "removed.arrow"
REMOVED_SCHEMA = pa.schema(
    {
        "document": pa.int64(),
        "similarity": pa.float64(),
        "kept_id": pa.string(),
        "kept_location": pa.string(),
        "hash": pa.binary(HASH_BYTES),
        "id": pa.string(),
        "location": pa.string(),
        "source": pa.string(),
        "num_bytes": pa.int64(),
        "text": pa.string(),
    }
)


def verify_group(
    folder: Path,
    advance: Callable[[int], None],
    signed: Sequence[SignedPartition],
    collected: Sequence[Path],
    group: int,
    num_fixed: int,
    config: NearDuplicatesConfig,
) -> dict[str, Any]:
    """Select in each cluster of a group; write the removed documents, by number.

    Args:
        signed, collected: all partitions, in the same order.
        num_fixed: documents with smaller numbers belong to a dataset that exists already.
    """
    group_files = _Group(signed, collected, group)
    table = group_files.members
    kept_N, similarity_N = np.arange(len(table)), np.ones(len(table))
    counts = {"num_compared": 0, "num_differing": 0, "num_cut": 0}
    for places in group_files.clusters_by_rank(num_fixed):
        selected = _select(group_files, places, num_fixed, config)
        kept_N[places] = places[selected.kept_N]
        similarity_N[places] = selected.similarity_N
        counts["num_compared"] += selected.num_compared
        counts["num_differing"] += selected.num_differing
        counts["num_cut"] += selected.num_cut
        advance(0)
    removed = np.flatnonzero(kept_N != np.arange(len(table)))
    removed = removed[np.argsort(group_files.documents_N[removed])]
    own, kept = table.take(removed), table.take(kept_N[removed])
    columns = {name: own[name] for name in REMOVED_SCHEMA.names if name in own.column_names} | {
        "similarity": similarity_N[removed],
        "kept_id": kept["id"],
        "kept_location": kept["location"],
    }
    ordered = {name: columns[name] for name in REMOVED_SCHEMA.names}
    write_table(folder / REMOVED_NAME, pa.table(ordered, REMOVED_SCHEMA))
    return {**counts, "examples": choose_examples(table, kept_N, similarity_N)}


def read_removed(folder: Path, first: int, stop: int) -> pa.Table:
    """Return the removed documents whose numbers are in a range, rows as REMOVED_SCHEMA."""
    table = map_table(folder / REMOVED_NAME)
    start, end = np.searchsorted(table["document"].to_numpy(), (first, stop))
    return table.slice(start, end - start)


def _select(
    group: "_Group", places: np.ndarray, num_fixed: int, config: NearDuplicatesConfig
) -> SelectedMembers:
    signatures = group.signatures(places)
    members = Members(
        keys_NB=band_keys(signatures, config.num_bands, config.num_rows),
        signatures_NK=signatures,
        num_shingles_N=group.num_shingles_N[places],
        shingles_of=lambda member: group.shingles(places[member]),
        num_passages_N=group.num_passages_N[places],
        passages_of=lambda member: group.passages(places[member]),
        num_fixed=int((group.documents_N[places] < num_fixed).sum()),
    )
    return select(members, config.threshold)


class _Group:
    """The members of the clusters of one group, from all partitions."""

    def __init__(
        self, signed: Sequence[SignedPartition], collected: Sequence[Path], group: int
    ) -> None:
        self._signed = signed
        self._collected = [Collected(folder) for folder in collected]
        self.members = pa.concat_tables([each.members(group) for each in self._collected])
        self.documents_N = self.members["document"].to_numpy()
        self.num_shingles_N = self.members["num_shingles"].to_numpy()
        self._first_shingle_N = self.members["first_shingle"].to_numpy()
        self.num_passages_N = self.members["num_passages"].to_numpy()
        self._first_passage_N = self.members["first_passage"].to_numpy()
        firsts = [partition.first for partition in signed]
        # Empty partitions share their first number with the next one, which is the right one.
        self._partition_N = np.searchsorted(firsts, self.documents_N, "right") - 1

    def clusters_by_rank(self, num_fixed: int) -> list[np.ndarray]:
        """Yield, for each cluster, the places of its members in this group, in order of rank."""
        clusters_N = self.members["cluster"].to_numpy()
        hashes = b"".join(self.members["hash"].to_pylist())
        by_rank = rank(
            self.members["num_bytes"].to_numpy(),
            np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES),
            self.documents_N < num_fixed,
        )
        order = by_rank[np.argsort(clusters_N[by_rank], kind="stable")]
        starts = np.flatnonzero(np.diff(clusters_N[order])) + 1
        return np.split(order, starts) if len(order) else []

    def signatures(self, places: np.ndarray) -> np.ndarray:
        """Return the signatures, uint32 [N, K]."""
        signatures_NK = None
        for number in np.unique(self._partition_N[places]):
            partition = self._signed[number]
            of_this = np.flatnonzero(self._partition_N[places] == number)
            rows = self.documents_N[places[of_this]] - partition.first
            found = partition.load(SIGNATURES_NAME)[rows]
            if signatures_NK is None:
                signatures_NK = np.empty((len(places), found.shape[1]), np.uint32)
            signatures_NK[of_this] = found
        assert signatures_NK is not None
        return signatures_NK

    def shingles(self, place: int) -> np.ndarray:
        """Return the set of shingles of one member."""
        collected = self._collected[self._partition_N[place]]
        return collected.shingles(self._first_shingle_N[place], self.num_shingles_N[place])

    def passages(self, place: int) -> np.ndarray:
        """Return the set of passages of one member."""
        collected = self._collected[self._partition_N[place]]
        return collected.passages(self._first_passage_N[place], self.num_passages_N[place])
