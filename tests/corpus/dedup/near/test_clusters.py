"""Candidates: all documents that share a key are in one cluster, and no others."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.dedup.near.clusters import connected_clusters, star_edges, unique_edges

PAIRS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 20)), unique=True, max_size=60)


def as_arrays(pairs):
    keys, documents = np.array(pairs, np.int64).reshape(-1, 2).T
    return keys.astype(np.uint64), documents


def naive_clusters(pairs) -> dict[int, int]:
    """The smallest document that can be reached over shared keys, for documents that share one."""
    smallest = {document: document for _, document in pairs}
    for _ in range(len(pairs)):
        for key, document in pairs:
            for other_key, other in pairs:
                if key == other_key:
                    smallest[document] = min(smallest[document], smallest[other])
    sizes = list(smallest.values())
    return {document: root for document, root in smallest.items() if sizes.count(root) > 1}


@given(PAIRS)
@settings(max_examples=150)
def test_clusters_are_what_shared_keys_connect(pairs):
    documents, clusters = connected_clusters(star_edges(*as_arrays(pairs)))
    expected = naive_clusters(pairs)
    assert dict(zip(documents.tolist(), clusters.tolist(), strict=True)) == expected


@given(PAIRS, st.randoms(), st.integers(0, 13))
@settings(max_examples=100)
def test_neither_order_nor_ranges_of_keys_matter(pairs, random, bound):
    edges = star_edges(*as_arrays(pairs))
    shuffled = random.sample(pairs, len(pairs))
    np.testing.assert_array_equal(star_edges(*as_arrays(shuffled)), edges)
    parts = [
        star_edges(*as_arrays([pair for pair in pairs if (pair[0] < bound) == below]))
        for below in (True, False)
    ]
    np.testing.assert_array_equal(unique_edges(np.concatenate(parts)), edges)
    assert (edges[:, 0] < edges[:, 1]).all()
