"""The stages that join: band keys of all partitions -> edges -> candidate clusters."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.corpus.dedup.near.clusters import connected_clusters, star_edges, unique_edges
from jaxgpt.corpus.dedup.near.sign import (
    KEYS_NAME,
    NUM_SHINGLES_NAME,
    ROWS_NAME,
    SignedPartition,
)
from jaxgpt.storage.array_files import save_array

EDGES_NAME = "edges.npy"
DOCUMENTS_NAME = "documents.npy"
CLUSTERS_NAME = "clusters.npy"
GROUPS_NAME = "groups.npy"
# Shingles of the clusters that are verified in one task, unless one cluster has more.
_GROUP_SHINGLES = 1 << 23


def join_keys(
    folder: Path,
    advance: Callable[[int], None],
    signed: Sequence[SignedPartition],
    number: int,
    num_ranges: int,
) -> dict[str, Any]:
    """Write the edges of all buckets whose key is in the `number`-th range."""
    first = np.uint64((number << 64) // num_ranges)
    last = np.uint64(((number + 1 << 64) // num_ranges) - 1)
    keys, documents = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for partition in signed:
        sorted_keys = partition.load(KEYS_NAME)
        start = np.searchsorted(sorted_keys, first)
        stop = np.searchsorted(sorted_keys, last, "right")
        keys.append(sorted_keys[start:stop])
        documents.append(partition.load(ROWS_NAME)[start:stop] + np.int64(partition.first))
        advance(0)
    edges = star_edges(np.concatenate(keys), np.concatenate(documents))
    save_array(folder / EDGES_NAME, edges)
    return {"num_edges": len(edges)}


def connect_documents(
    folder: Path,
    advance: Callable[[int], None],
    signed: Sequence[SignedPartition],
    joined: Sequence[Path],
) -> dict[str, Any]:
    """Write candidate clusters, and which of them are verified together.

    documents.npy: int64, sorted numbers of the documents in clusters; for each, clusters.npy: the
    smallest number in its cluster, and groups.npy: the task that verifies it. This is the one
    step that sees all edges.
    """
    edges = [np.zeros((0, 2), np.int64)]
    for each in joined:
        edges.append(np.load(each / EDGES_NAME, allow_pickle=False))
        advance(0)
    documents_N, clusters_N = connected_clusters(unique_edges(np.concatenate(edges)))
    _, index_N = np.unique(clusters_N, return_inverse=True)
    num_clusters = int(index_N.max()) + 1 if len(index_N) else 0
    shingles = np.bincount(index_N, _num_shingles(signed, documents_N), num_clusters)
    before = np.cumsum(shingles.astype(np.int64)) - shingles.astype(np.int64)
    _, group_of = np.unique(before // _GROUP_SHINGLES, return_inverse=True)
    save_array(folder / DOCUMENTS_NAME, documents_N)
    save_array(folder / CLUSTERS_NAME, clusters_N)
    save_array(folder / GROUPS_NAME, group_of[index_N].astype(np.int64))
    return {
        "num_documents": len(documents_N),
        "num_clusters": num_clusters,
        "largest_cluster": int(np.bincount(index_N).max()) if num_clusters else 0,
        "num_groups": int(group_of.max()) + 1 if num_clusters else 0,
    }


def _num_shingles(signed: Sequence[SignedPartition], documents_N: np.ndarray) -> np.ndarray:
    counts = [np.zeros(0, np.int64)]
    for partition in signed:
        start, stop = np.searchsorted(documents_N, (partition.first, partition.stop))
        if start < stop:
            rows = documents_N[start:stop] - partition.first
            counts.append(partition.load(NUM_SHINGLES_NAME)[rows])
    return np.concatenate(counts)
