"""Selection of the documents of a candidate cluster that stay, and of the one that each other
repeats. Documents are taken in an order that depends only on themselves. One that has not been
removed is a keeper for good. The documents after it that share a band with it are its candidates:
those at least as similar as the threshold, and written alike, are removed in its favour. So a kept
document is never removed, a removed one is similar to the very document that is kept for it, a
cluster always keeps its first member, and the result does not depend on the order of the input.
Without the exact comparison shared bands, and similarity passed on from document to document, have
removed whole collections.

Axes: N members in order of rank, B bands, K permutations, C documents that are compared.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from jaxgpt.corpus.dedup.near.minhash import estimate_similarity
from jaxgpt.corpus.dedup.near.passages import words_of

# In a bucket of very many documents that only share a band, further ones are not compared.
MAX_KEEPERS = 64
# Shingles that are compared at once.
_BLOCK_SHINGLES = 1 << 20
# Standard errors that the estimate may lie below the threshold; 3e-5 of duplicates lie lower.
_MARGIN_ERRORS = 4
# The share of passages with the same words that must be written the same.
MIN_AGREEMENT = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class Members:
    """The members of a candidate cluster, in order of rank.

    Attributes:
        keys_NB: band keys.
        signatures_NK: MinHash signatures; may be mapped from a file.
        num_shingles_N: sizes of the sets of shingles.
        shingles_of: the sorted, unique shingle hashes of a member.
        num_passages_N: sizes of the sets of passages; 0 for prose, which has none.
        passages_of: the sorted, unique passages of a member.
        num_fixed: the first `num_fixed` members always stay: they belong to a dataset that exists
            already.
    """

    keys_NB: np.ndarray
    signatures_NK: np.ndarray
    num_shingles_N: np.ndarray
    shingles_of: Callable[[int], np.ndarray]
    num_passages_N: np.ndarray
    passages_of: Callable[[int], np.ndarray]
    num_fixed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectedMembers:
    """Members that stay, and the one that each other repeats.

    Attributes:
        kept_N: int64, the member that is kept for each; itself, if it stays.
        similarity_N: float64, exact Jaccard similarity with that one.
        num_compared: pairs whose shingles were compared.
        num_differing: pairs that are similar enough but differ in case or symbols.
        num_cut: number of times that a pair sharing a band was not compared, because its bucket had
            had MAX_KEEPERS keepers; another band may have led to its comparison.
    """

    kept_N: np.ndarray
    similarity_N: np.ndarray
    num_compared: int
    num_differing: int
    num_cut: int


def rank(lengths_N: np.ndarray, hashes_N: np.ndarray, is_fixed_N: np.ndarray) -> np.ndarray:
    """Return the order in which members are taken: fixed ones, then the longest, then by hash.

    Args:
        lengths_N: of the texts.
        hashes_N: content hashes, uint8 [N, 16]; they break ties, so they should be unique.
        is_fixed_N: whether a member belongs to a dataset that exists already.

    Returns:
        int64 [N]; the place of the member that comes first, and so on.
    """
    high_N, low_N = np.ascontiguousarray(hashes_N).view(">u8").reshape(-1, 2).T
    return np.lexsort((low_N, high_N, -lengths_N.astype(np.int64), ~is_fixed_N))


def select(members: Members, threshold: float) -> SelectedMembers:
    """Decide which members stay.

    Work is linear in the sizes of the buckets, as each has at most MAX_KEEPERS keepers.
    """
    num = len(members.keys_NB)
    buckets = _Buckets(members.keys_NB, members.num_fixed)
    kept_N, similarity_N = np.arange(num), np.ones(num)
    num_compared = num_differing = num_cut = 0
    for keeper in range(num):
        if kept_N[keeper] != keeper:
            continue
        candidates, num_passed = buckets.take_candidates(keeper)
        num_cut += num_passed
        if not len(candidates):
            continue
        candidates = _promising(members, keeper, candidates, threshold)
        num_compared += len(candidates)
        similarity_C = _exact_similarity(members, keeper, candidates)
        is_duplicate_C = similarity_C >= threshold
        is_written_alike = _is_written_alike(members, keeper, candidates[is_duplicate_C])
        num_differing += int((~is_written_alike).sum())
        is_duplicate_C[is_duplicate_C] = is_written_alike
        removed = candidates[is_duplicate_C]
        kept_N[removed] = keeper
        similarity_N[removed] = similarity_C[is_duplicate_C]
        buckets.decide(removed)
    return SelectedMembers(
        kept_N=kept_N,
        similarity_N=similarity_N,
        num_compared=num_compared,
        num_differing=num_differing,
        num_cut=num_cut,
    )


class _Buckets:
    """Members that have a band key in common, and the undecided ones among them.

    Fixed members are decided from the start, any other when it is removed or its turn comes.
    """

    def __init__(self, keys_NB: np.ndarray, num_fixed: int) -> None:
        _, numbers = np.unique(keys_NB, return_inverse=True)
        self._buckets_NB = numbers.reshape(keys_NB.shape)
        order = np.argsort(self._buckets_NB, axis=None, kind="stable")
        # Bucket after bucket, in order of rank in each.
        self._members = order // keys_NB.shape[1]
        self._num_undecided = np.bincount(numbers.ravel())
        self._offsets = np.concatenate([[0], np.cumsum(self._num_undecided)])
        self._num_keepers = np.zeros(len(self._num_undecided), np.int64)
        self._is_undecided_N = np.ones(len(keys_NB), bool)
        self.decide(np.arange(num_fixed))

    def decide(self, members: np.ndarray) -> None:
        """Mark members as decided."""
        self._is_undecided_N[members] = False
        np.subtract.at(self._num_undecided, self._buckets_NB[members].ravel(), 1)

    def take_candidates(self, keeper: int) -> tuple[np.ndarray, int]:
        """Return the undecided members that share a band with a keeper, in order of rank. The
        second result is the number of those left out in buckets that have had all their keepers.
        """
        if self._is_undecided_N[keeper]:
            self.decide(np.array([keeper]))
        buckets = np.unique(self._buckets_NB[keeper])
        buckets = buckets[self._num_undecided[buckets] > 0]
        is_open = self._num_keepers[buckets] < MAX_KEEPERS
        self._num_keepers[buckets[is_open]] += 1
        inside = [np.zeros(0, np.int64)]
        for bucket in buckets[is_open]:
            inside.append(self._members[self._offsets[bucket] : self._offsets[bucket + 1]])
        members = np.concatenate(inside)
        candidates = np.unique(members[self._is_undecided_N[members]])
        return candidates, int(self._num_undecided[buckets[~is_open]].sum())


def _promising(
    members: Members, keeper: int, candidates: np.ndarray, threshold: float
) -> np.ndarray:
    """Return the candidates that may reach the threshold, by set size and by estimate."""
    sizes, own_size = members.num_shingles_N[candidates], members.num_shingles_N[keeper]
    # The intersection is at most the smaller set, the union at least the larger.
    candidates = candidates[np.minimum(sizes, own_size) / np.maximum(sizes, own_size) >= threshold]
    num_permutations = members.signatures_NK.shape[1]
    error = np.sqrt(threshold * (1 - threshold) / num_permutations)
    estimates = estimate_similarity(
        members.signatures_NK[candidates], members.signatures_NK[keeper]
    )
    return candidates[estimates >= threshold - _MARGIN_ERRORS * error]


def _exact_similarity(members: Members, keeper: int, candidates: np.ndarray) -> np.ndarray:
    """Return the Jaccard similarity of the shingles of keeper and candidates: float64 [C]."""
    own = members.shingles_of(keeper)
    sizes_C = members.num_shingles_N[candidates]
    shared_C = np.zeros(len(candidates), np.int64)
    for block, hashes, starts in _sets(members.shingles_of, candidates, sizes_C):
        shared_C[block] = _count(_is_among(hashes, own), starts)
    return shared_C / (len(own) + sizes_C - shared_C)


def _is_written_alike(members: Members, keeper: int, candidates: np.ndarray) -> np.ndarray:
    """Return whether case and symbols of each candidate agree with those of the keeper: bool [C].

    Consider the passages of a candidate whose words the keeper also has: a share of at least
    MIN_AGREEMENT must be in the keeper's text as written. Prose agrees with every text.
    """
    is_alike_C = np.ones(len(candidates), bool)
    with_passages = np.flatnonzero(members.num_passages_N[candidates])
    if not members.num_passages_N[keeper] or not len(with_passages):
        return is_alike_C
    own = members.passages_of(keeper)
    own_words = words_of(own)
    writing = candidates[with_passages]
    for block, passages, starts in _sets(
        members.passages_of, writing, members.num_passages_N[writing]
    ):
        num_written = _count(_is_among(passages, own), starts)
        num_words = _count(_is_among(words_of(passages), own_words), starts)
        is_alike = (num_words > 0) & (num_written >= MIN_AGREEMENT * num_words)
        is_alike_C[with_passages[block]] = is_alike
    return is_alike_C


def _sets(
    set_of: Callable[[int], np.ndarray], members: np.ndarray, sizes: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield some members, their sets one after the other, and where each begins."""
    for block in _blocks(sizes):
        sets = [set_of(int(member)) for member in members[block]]
        starts = np.cumsum([0, *(len(each) for each in sets[:-1])])
        yield block, np.concatenate(sets), starts


def _is_among(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return whether each hash is one of the known, sorted ones."""
    return known[np.minimum(np.searchsorted(known, hashes), len(known) - 1)] == hashes


def _count(is_counted: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the number of true values in each set; no set is empty."""
    return np.add.reduceat(is_counted.astype(np.int64), starts)


def _blocks(sizes: np.ndarray) -> Iterator[slice]:
    """Cut a sequence so that each piece has at most _BLOCK_SHINGLES, or is one element."""
    start = 0
    ends = np.cumsum(sizes)
    while start < len(sizes):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + _BLOCK_SHINGLES, "right")), start + 1)
        yield slice(start, stop)
        start = stop
