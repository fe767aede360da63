"""MinHash signatures of many documents at once, bit for bit those of datasketch.

The share of equal places in two signatures estimates the Jaccard similarity of the documents'
shingles (Broder 1997). datasketch makes one signature at a time; here the same arithmetic runs
over blocks of shingles that stay in the processor's cache, whichever documents they belong to.

Axes: S shingles, K permutations, D documents, N documents that have shingles.
"""

import functools
from typing import TYPE_CHECKING

import numpy as np

from jaxgpt.corpus.dedup.near.shingles import Shingles

if TYPE_CHECKING:
    import datasketch

# Of which the estimate has a standard error of at most 1 / 32.
NUM_PERMUTATIONS = 256
SEED = 1
SCHEME = "affine32"
# What a document without shingles has in every place, as in datasketch.
EMPTY = np.uint32(0xFFFFFFFF)
# Shingles that are permuted together: with the scratch array 512 KiB.
_BLOCK_SHINGLES = 1 << 16


def sign(shingles: Shingles, num_permutations: int = NUM_PERMUTATIONS) -> np.ndarray:
    """Return MinHash signatures from the low 32 bits of the shingles' hashes.

    Returns:
        uint32 [D, num_permutations]. Memory is bounded by the block, however long a document is.
    """
    with_some_N = np.flatnonzero(shingles.counts_D)
    starts_N = shingles.offsets_D1[with_some_N]
    minima_KN = np.full((num_permutations, len(with_some_N)), EMPTY)
    factors_K, summands_K = permutations(num_permutations)
    num_shingles = len(shingles.hashes_S)
    permuted = np.empty(min(_BLOCK_SHINGLES, num_shingles), np.uint32)
    for start in range(0, num_shingles, _BLOCK_SHINGLES):
        stop = min(start + _BLOCK_SHINGLES, num_shingles)
        hashes = _mix(shingles.hashes_S[start:stop].astype(np.uint32))
        first = int(np.searchsorted(starts_N, start, "right")) - 1
        end = int(np.searchsorted(starts_N, stop))
        segments = np.maximum(starts_N[first:end] - start, 0)
        block = permuted[: stop - start]
        for factor, summand, minima_N in zip(factors_K, summands_K, minima_KN, strict=True):
            np.multiply(hashes, factor, out=block)
            np.add(block, summand, out=block)
            lowest = np.minimum.reduceat(block, segments)
            np.minimum(minima_N[first:end], lowest, out=minima_N[first:end])
    signatures_DK = np.full((len(shingles.counts_D), num_permutations), EMPTY)
    signatures_DK[with_some_N] = minima_KN.T
    return signatures_DK


def estimate_similarity(signatures_DK: np.ndarray, signature_K: np.ndarray) -> np.ndarray:
    """Return the estimated Jaccard similarity of each document with one other: float64 [D]."""
    return np.count_nonzero(signatures_DK == signature_K, axis=1) / len(signature_K)


def wrap_signature(signature_K: np.ndarray) -> "datasketch.MinHash":
    """Return a signature as the object that datasketch's indexes take."""
    # Only here: it takes longer to import than all the rest of a build.
    import datasketch

    return datasketch.MinHash(seed=SEED, scheme=SCHEME, hashvalues=signature_K)


@functools.cache
def permutations(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return datasketch's permutations h -> a * h + b modulo 2**32: a and b, uint32 [K]."""
    generator = np.random.RandomState(SEED)
    halves_K = generator.randint(0, 1 << 31, num, np.uint32)
    # An odd factor loses nothing.
    return halves_K * np.uint32(2) + np.uint32(1), generator.randint(0, 1 << 32, num, np.uint32)


def _mix(hashes: np.ndarray) -> np.ndarray:
    """Apply the 32-bit finaliser of MurmurHash3, with which scheme affine32 begins."""
    hashes = (hashes ^ (hashes >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    hashes = (hashes ^ (hashes >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return hashes ^ (hashes >> np.uint32(16))
