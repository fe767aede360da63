"""How much of each document is repeated word n-grams, in characters.

An n-gram is n neighbouring words; two are the same if their words are. All of a batch are found
by sorting 64-bit keys: 16 bits of the document's number, 48 bits of the n-gram's hash.

Axes: D documents, N n-grams of all documents, G groups of equal n-grams in one document.
"""

import dataclasses
import functools

import numpy as np

from jaxgpt.corpus.words import Words, neighbours

# What 16 bits can number.
MAX_DOCUMENTS = 1 << 16
_HASH_BITS = np.uint64(48)
# Of one document, for a bound on its most frequent n-grams.
_CELLS = 256


@dataclasses.dataclass(frozen=True)
class NGrams:
    """The n-grams of a batch, grouped.

    Attributes:
        num: words in each.
        words: of the batch, of at most MAX_DOCUMENTS documents.
        offsets_D1: int64 [D + 1]; document d has n-grams offsets_D1[d]:offsets_D1[d + 1].
        order_N: int64, n-grams sorted by document and hash.
        group_starts_G: int64, where in `order_N` a group of equal ones begins.
        group_sizes_G: int64.
        first_G: int64, the first n-gram in the text of each group.
    """

    num: int
    words: Words
    offsets_D1: np.ndarray
    order_N: np.ndarray
    group_starts_G: np.ndarray
    group_sizes_G: np.ndarray
    first_G: np.ndarray

    @functools.cached_property
    def first_word_N(self) -> np.ndarray:
        """Where in the words of the batch each n-gram begins."""
        shifts_D = self.words.offsets_D1[:-1] - self.offsets_D1[:-1]
        return np.arange(self.offsets_D1[-1]) + np.repeat(shifts_D, np.diff(self.offsets_D1))

    @functools.cached_property
    def characters_N(self) -> np.ndarray:
        """Characters of each n-gram's words, without what separates them."""
        ends = np.concatenate([[0], np.cumsum(self.words.lengths_W)])
        return ends[self.first_word_N + self.num] - ends[self.first_word_N]


def group_n_grams(words: Words, num: int) -> NGrams:
    """Find the equal ones among the n-grams of `num` words of each document."""
    hashes_N, offsets_D1 = neighbours(words, num)
    documents = np.arange(len(offsets_D1) - 1, dtype=np.uint64) << _HASH_BITS
    keys_N = np.repeat(documents, np.diff(offsets_D1)) | (hashes_N >> (np.uint64(64) - _HASH_BITS))
    order_N = np.argsort(keys_N)
    keys_N = keys_N[order_N]
    is_start_N = np.ones(len(keys_N), bool)
    is_start_N[1:] = keys_N[1:] != keys_N[:-1]
    starts_G = np.flatnonzero(is_start_N)
    sizes_G = np.diff(starts_G, append=len(keys_N))
    first_G = np.minimum.reduceat(order_N, starts_G) if len(starts_G) else starts_G
    return NGrams(num, words, offsets_D1, order_N, starts_G, sizes_G, first_G)


def bound_top_characters(words: Words) -> np.ndarray:
    """int64 [D]: no less than half of `top_characters` for n-grams of 2, 3 or 4 words; fast.

    Pairs of words fall into cells by their hash; a cell holds all occurrences of its pairs, each
    with its characters and two spaces. An n-gram of up to 4 words is made of at most two pairs,
    each of which occurs at least as often.
    """
    hashes_N, offsets_D1 = neighbours(words, 2)
    n_grams = NGrams(2, words, offsets_D1, *[np.zeros(0, np.int64)] * 4)
    num_documents = len(offsets_D1) - 1
    firsts_N = np.repeat(np.arange(num_documents) * _CELLS, np.diff(offsets_D1))
    cells_N = firsts_N + (hashes_N % np.uint64(_CELLS)).astype(np.int64)
    # Sums of whole numbers below 2**53 are exact in floating point.
    sums = np.bincount(cells_N, n_grams.characters_N + 2, minlength=num_documents * _CELLS)
    return sums.reshape(num_documents, _CELLS).max(1).astype(np.int64)


def top_characters(n_grams: NGrams) -> np.ndarray:
    """int64 [D]: characters of all occurrences of the most frequent n-gram, words and one space
    between them. Of equally frequent ones the first in the text counts. 0 without n-grams."""
    result_D = np.zeros(len(n_grams.offsets_D1) - 1, np.int64)
    if not len(n_grams.first_G):
        return result_D
    # The largest is the most frequent and, among those, the first.
    rank_G = (n_grams.group_sizes_G << 32) - n_grams.first_G
    document_G = np.searchsorted(n_grams.offsets_D1, n_grams.first_G, side="right") - 1
    starts = np.flatnonzero(np.diff(document_G, prepend=-1))
    top = np.maximum.reduceat(rank_G, starts)
    sizes = -(-top >> 32)
    first = (sizes << 32) - top
    lengths = n_grams.characters_N[first] + n_grams.num - 1
    result_D[document_G[starts]] = lengths * sizes
    return result_D


def covered_characters(n_grams: NGrams) -> np.ndarray:
    """int64 [D]: characters of words that lie in an n-gram which occurred before.

    No less than `duplicate_characters`, and no more than the same for fewer words.
    """
    later = _repeated(n_grams, first_too=False)
    steps_W = np.zeros(len(n_grams.words.lengths_W) + 1, np.int64)
    starts = n_grams.first_word_N[later]
    np.add.at(steps_W, starts, 1)
    np.add.at(steps_W, starts + n_grams.num, -1)
    is_covered_W = np.cumsum(steps_W[:-1]) > 0
    total = np.concatenate([[0], np.cumsum(n_grams.words.lengths_W * is_covered_W)])
    return np.diff(total[n_grams.words.offsets_D1])


def duplicate_characters(n_grams: NGrams, documents: np.ndarray) -> np.ndarray:
    """Characters of n-grams that were read before, for each of `documents` (their numbers).

    The text is read from left to right. An n-gram that was read before counts, and reading goes
    on behind it; else it is remembered, and reading goes on at the next word.
    """
    # N-grams that occur once are remembered in vain; the others are few.
    repeated = _repeated(n_grams, first_too=True)
    group_N = np.zeros(len(n_grams.order_N), np.int64)
    group_N[n_grams.order_N] = np.repeat(n_grams.first_G, n_grams.group_sizes_G)
    bounds = np.searchsorted(repeated, n_grams.offsets_D1)
    result = np.zeros(len(documents), np.int64)
    for place, document in enumerate(documents):
        chosen = repeated[bounds[document] : bounds[document + 1]]
        known, counted, free = set(), [], 0
        for position, group in zip(chosen.tolist(), group_N[chosen].tolist(), strict=True):
            if position < free:
                continue
            if group in known:
                counted.append(position)
                free = position + n_grams.num
            else:
                known.add(group)
        result[place] = n_grams.characters_N[counted].sum() if counted else 0
    return result


def _repeated(n_grams: NGrams, first_too: bool) -> np.ndarray:
    """Numbers of the n-grams that occur more than once, ascending; with or without the first."""
    is_repeated_N = np.zeros(len(n_grams.order_N), bool)
    is_repeated_N[n_grams.order_N] = np.repeat(n_grams.group_sizes_G > 1, n_grams.group_sizes_G)
    if not first_too:
        is_repeated_N[n_grams.first_G] = False
    return np.flatnonzero(is_repeated_N)
