"""Signatures: bit for bit those of datasketch, for documents of every length."""

import datasketch
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.dedup.near import minhash
from jaxgpt.corpus.dedup.near.minhash import (
    EMPTY,
    NUM_PERMUTATIONS,
    estimate_similarity,
    sign,
    wrap_signature,
)
from jaxgpt.corpus.dedup.near.shingles import Shingles


def make_shingles(counts: list[int], seed: int) -> Shingles:
    hashes = np.random.default_rng(seed).integers(0, 1 << 64, sum(counts), np.uint64)
    return Shingles(hashes, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def golden(shingles: Shingles, document: int, num_permutations: int) -> datasketch.MinHash:
    start, stop = shingles.offsets_D1[document : document + 2]
    sketch = datasketch.MinHash(
        num_perm=num_permutations,
        seed=1,
        scheme="affine32",
        hashfunc=lambda hash: int(hash) & 0xFFFFFFFF,
    )
    for hashes in np.array_split(shingles.hashes_S[start:stop], 1 + (stop - start) // 10_000):
        if len(hashes):
            sketch.update_batch(hashes)
    return sketch


@given(
    st.lists(st.integers(0, 40), max_size=12),
    st.integers(0, 1 << 32),
    st.integers(1, 16),
    st.sampled_from([256, 260, 1]),
)
@settings(max_examples=60)
def test_signatures_are_those_of_datasketch(counts, seed, block, num_permutations):
    shingles = make_shingles(counts, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minhash, "_BLOCK_SHINGLES", block)
        in_blocks = sign(shingles, num_permutations)
    signatures = sign(shingles, num_permutations)
    assert signatures.dtype == np.uint32
    assert signatures.shape == (len(counts), num_permutations)
    np.testing.assert_array_equal(signatures, in_blocks)
    for document in range(len(counts)):
        expected = golden(shingles, document, num_permutations)
        np.testing.assert_array_equal(signatures[document], expected.hashvalues)


def test_empty_and_huge_documents_are_those_of_datasketch():
    shingles = make_shingles([0, 300_000, 0, 0, 1, 70_000, 0], 0)
    signatures = sign(shingles)
    for document in range(7):
        sketch = wrap_signature(signatures[document])
        expected = golden(shingles, document, NUM_PERMUTATIONS)
        assert sketch == expected
        assert sketch.jaccard(expected) == 1
    assert (signatures[[0, 2, 3, 6]] == EMPTY).all()
    assert wrap_signature(signatures[0]).is_empty()


def test_the_estimate_is_that_of_datasketch_and_near_the_truth():
    shared, own = 3000, 1000
    common = make_shingles([shared], 1).hashes_S
    sets = [np.concatenate([common, make_shingles([own], seed).hashes_S]) for seed in (2, 3)]
    signatures = sign(Shingles(np.concatenate(sets), np.arange(3, dtype=np.int64) * (shared + own)))
    estimate = estimate_similarity(signatures, signatures[0])
    expected = wrap_signature(signatures[1]).jaccard(wrap_signature(signatures[0]))
    assert estimate.tolist() == [1, expected]
    true = shared / (shared + 2 * own)
    assert estimate[1] == pytest.approx(true, abs=4 * (true * (1 - true) / 256) ** 0.5)
