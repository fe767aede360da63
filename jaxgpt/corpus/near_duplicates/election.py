"""The election: which documents of a candidate cluster stay, and which one each other repeats.

Documents are taken in an order that depends on nothing but themselves. One that has not been
removed stays for good and judges the documents after it that share a band with it: those at
least as similar as the threshold are removed in its favour. So a kept document is never removed,
a removed one is similar to the very document that is kept for it, a cluster always keeps its
first member, and the result does not depend on the order of the input. Without the exact
comparison shared bands, and similarity passed on from document to document, have removed whole
collections.

Axes: N members in order of rank, B bands, K permutations, C documents that are compared.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from jaxgpt.corpus.near_duplicates.minhash import estimate_similarity

# In a bucket of very many documents that only share a band, further ones are not compared.
MAX_JUDGES = 64
# Shingles that are compared at once.
_BLOCK_SHINGLES = 1 << 20
# Standard errors that the estimate may lie below the threshold; 3e-5 of duplicates lie lower.
_MARGIN_ERRORS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Members:
    """The members of a candidate cluster, in order of rank.

    Attributes:
        keys_NB: band keys.
        signatures_NK: MinHash signatures; may be mapped from a file.
        num_shingles_N: sizes of the sets of shingles.
        shingles_of: the sorted, unique shingle hashes of a member.
        num_fixed: so many, the first, stay whatever they are like: they belong to a dataset that
            exists already.
    """

    keys_NB: np.ndarray
    signatures_NK: np.ndarray
    num_shingles_N: np.ndarray
    shingles_of: Callable[[int], np.ndarray]
    num_fixed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Elected:
    """The outcome.

    Attributes:
        kept_N: int64, the member that is kept for each; itself, if it stays.
        similarity_N: float64, exact Jaccard similarity with that one.
        num_compared: pairs whose shingles were compared.
        num_cut: pairs that share a band and were not looked at, because their bucket had had
            MAX_JUDGES judges.
    """

    kept_N: np.ndarray
    similarity_N: np.ndarray
    num_compared: int
    num_cut: int


def rank(lengths_N: np.ndarray, hashes_N: np.ndarray, is_fixed_N: np.ndarray) -> np.ndarray:
    """The order in which members are taken: fixed ones, then the longest, then by content hash.

    Args:
        lengths_N: of the texts.
        hashes_N: content hashes, uint8 [N, 16]; they break ties, so they should be unique.
        is_fixed_N: whether a member belongs to a dataset that exists already.

    Returns:
        int64 [N]; the place of the member that comes first, and so on.
    """
    high_N, low_N = np.ascontiguousarray(hashes_N).view(">u8").reshape(-1, 2).T
    return np.lexsort((low_N, high_N, -lengths_N.astype(np.int64), ~is_fixed_N))


def elect(members: Members, threshold: float) -> Elected:
    """Decide who stays, in time proportional to the pairs that share a band.

    In a bucket at most MAX_JUDGES members judge, so that work is linear in its size.
    """
    num = len(members.keys_NB)
    buckets_NB = _number_buckets(members.keys_NB)
    by_bucket, offsets = _group_by_bucket(buckets_NB)
    num_judges = np.zeros(len(offsets) - 1, np.int64)
    kept_N, similarity_N = np.arange(num), np.ones(num)
    # Judges are fixed when their turn comes; who comes after and is not removed is undecided.
    is_undecided_N = np.arange(num) >= members.num_fixed
    num_compared = num_cut = 0
    for judge in range(num):
        if kept_N[judge] != judge:
            continue
        is_undecided_N[judge] = False
        neighbours = []
        for bucket in buckets_NB[judge]:
            inside = by_bucket[offsets[bucket] : offsets[bucket + 1]]
            undecided = inside[is_undecided_N[inside]]
            if not len(undecided):
                continue
            if num_judges[bucket] == MAX_JUDGES:
                num_cut += len(undecided)
                continue
            num_judges[bucket] += 1
            neighbours.append(undecided)
        if not neighbours:
            continue
        rivals = np.unique(np.concatenate(neighbours))
        rivals = _promising(members, judge, rivals, threshold)
        num_compared += len(rivals)
        similarity_C = _exact_similarity(members, judge, rivals)
        is_duplicate_C = similarity_C >= threshold
        removed = rivals[is_duplicate_C]
        kept_N[removed] = judge
        similarity_N[removed] = similarity_C[is_duplicate_C]
        is_undecided_N[removed] = False
    return Elected(
        kept_N=kept_N, similarity_N=similarity_N, num_compared=num_compared, num_cut=num_cut
    )


def _number_buckets(keys_NB: np.ndarray) -> np.ndarray:
    """Small numbers for band keys: int64 [N, B]."""
    _, numbers = np.unique(keys_NB, return_inverse=True)
    return numbers.reshape(keys_NB.shape)


def _group_by_bucket(buckets_NB: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Members bucket after bucket, in order of rank in each, and where each bucket begins."""
    order = np.argsort(buckets_NB, axis=None, kind="stable")
    counts = np.bincount(buckets_NB.ravel())
    return order // buckets_NB.shape[1], np.concatenate([[0], np.cumsum(counts)])


def _promising(members: Members, judge: int, rivals: np.ndarray, threshold: float) -> np.ndarray:
    """The rivals that may reach the threshold: by the sizes of the sets, and by the estimate."""
    sizes, own_size = members.num_shingles_N[rivals], members.num_shingles_N[judge]
    # The intersection is at most the smaller set, the union at least the larger.
    rivals = rivals[np.minimum(sizes, own_size) / np.maximum(sizes, own_size) >= threshold]
    num_permutations = members.signatures_NK.shape[1]
    error = np.sqrt(threshold * (1 - threshold) / num_permutations)
    estimates = estimate_similarity(members.signatures_NK[rivals], members.signatures_NK[judge])
    return rivals[estimates >= threshold - _MARGIN_ERRORS * error]


def _exact_similarity(members: Members, judge: int, rivals: np.ndarray) -> np.ndarray:
    """Jaccard similarity of the sets of shingles of the judge and each rival: float64 [C]."""
    own = members.shingles_of(judge)
    shared = [np.zeros(0, np.int64)]
    for block in _blocks(members.num_shingles_N[rivals]):
        sets = [members.shingles_of(int(rival)) for rival in rivals[block]]
        hashes = np.concatenate(sets)
        places = np.minimum(np.searchsorted(own, hashes), len(own) - 1)
        starts = np.cumsum([0, *(len(shingles) for shingles in sets[:-1])])
        shared.append(np.add.reduceat((own[places] == hashes).astype(np.int64), starts))
    shared_C = np.concatenate(shared)
    return shared_C / (len(own) + members.num_shingles_N[rivals] - shared_C)


def _blocks(sizes: np.ndarray) -> Iterator[slice]:
    """Cut a sequence so that each piece has at most _BLOCK_SHINGLES, or is one element."""
    start = 0
    ends = np.cumsum(sizes)
    while start < len(sizes):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + _BLOCK_SHINGLES, "right")), start + 1)
        yield slice(start, stop)
        start = stop
