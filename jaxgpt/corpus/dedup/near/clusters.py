"""Candidate clusters: documents that share a band, directly or through others.

A join by sorting: all keys of one range are sorted, equal keys are a bucket, and a bucket becomes a
star, an edge from its first document to each other one. A star connects a bucket with one edge per
document; the pairs to compare are chosen later, from the buckets.

Axes: P pairs of key and document, E edges, N documents in clusters.
"""

import numpy as np


def star_edges(keys_P: np.ndarray, documents_P: np.ndarray) -> np.ndarray:
    """Return edges between documents that have a key in common.

    Args:
        keys_P: uint64.
        documents_P: int64, document numbers.

    Returns:
        int64 [E, 2], sorted and without repetition; the smaller number first. The order of the
        pairs makes no difference.
    """
    order = np.lexsort((documents_P, keys_P))
    keys_P, documents_P = keys_P[order], documents_P[order]
    is_first = np.ones(len(keys_P), bool)
    is_first[1:] = keys_P[1:] != keys_P[:-1]
    places = np.flatnonzero(is_first)
    centres_P = np.repeat(documents_P[places], np.diff(np.append(places, len(keys_P))))
    is_edge = centres_P != documents_P
    return unique_edges(np.stack([centres_P[is_edge], documents_P[is_edge]], axis=1))


def unique_edges(edges: np.ndarray) -> np.ndarray:
    """Return each edge once, sorted by the first document, then the second: int64 [E, 2]."""
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    is_new = np.ones(len(edges), bool)
    is_new[1:] = (edges[1:] != edges[:-1]).any(axis=1)
    return edges[is_new]


def connected_clusters(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the connected components of the graph of these edges.

    Returns:
        documents_N: int64, sorted numbers of all documents that have an edge.
        clusters_N: int64, for each the smallest number in its component.
    """
    # Only here: it takes a while to import, and one process of a build needs it.
    import scipy.sparse

    documents_N, ends = np.unique(edges, return_inverse=True)
    first, second = ends.reshape(-1, 2).T
    num = len(documents_N)
    if not num:
        return documents_N, documents_N
    graph = scipy.sparse.coo_array((np.ones(len(first), bool), (first, second)), shape=(num, num))
    _, labels_N = scipy.sparse.csgraph.connected_components(graph, directed=False)
    # Documents are sorted, so where a label comes first is the smallest of its component.
    _, first_of_label, label_of = np.unique(labels_N, return_index=True, return_inverse=True)
    return documents_N, documents_N[first_of_label[label_of]]
