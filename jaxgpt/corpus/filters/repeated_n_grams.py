"""Repeated word n-grams of documents, measured in characters.

An n-gram is n neighbouring words; two are the same if their words are. All of a batch are found
together, by 64-bit keys made of the document and the n-gram.

Axes: W words, D documents, R n-grams that their document has more than once, G groups of equal
ones.
"""

import dataclasses

import numpy as np

from jaxgpt.corpus.text.words import Words, is_within, windows

# Odd, so that no key is lost by multiplying; from the digits of pi.
_BASE = np.uint64(0x243F6A8885A308D3)
# Of one document, for a bound on its most frequent n-grams.
_CELL_BITS = 8


@dataclasses.dataclass(frozen=True)
class Repeats:
    """The n-grams that a document has more than once.

    Attributes:
        num: words in each.
        words: of the batch.
        places_R: int64, ascending: the first word of each.
        firsts_R: int64: the first word of the first one in the text that is equal.
    """

    num: int
    words: Words
    places_R: np.ndarray
    firsts_R: np.ndarray

    def characters(self, places: np.ndarray) -> np.ndarray:
        """Return the characters of the words of n-grams, without separators."""
        characters = np.zeros(len(places), np.int64)
        for number in range(self.num):
            characters += self.words.lengths_W[places + number]
        return characters


def find_repeats(words: Words, num: int) -> Repeats:
    """Find the equal ones among the n-grams of `num` words of each document."""
    keys = windows(words, num)
    num_documents = len(words.offsets_D1) - 1
    salts_D = np.arange(1, num_documents + 1, dtype=np.uint64) * _BASE
    keys += np.repeat(salts_D, words.counts_D)[: len(keys)]
    keys *= _BASE
    places = _find_alike(keys)
    places = places[is_within(words, num)[places]]
    order = np.argsort(keys[places], kind="stable")
    keys, places = keys[places[order]], places[order]
    is_first = np.ones(len(keys), bool)
    is_first[1:] = keys[1:] != keys[:-1]
    sizes_G = np.diff(np.flatnonzero(is_first), append=len(keys))
    firsts = np.repeat(places[is_first], sizes_G)
    is_repeated = np.repeat(sizes_G > 1, sizes_G)
    places, firsts = places[is_repeated], firsts[is_repeated]
    order = np.argsort(places)
    return Repeats(num, words, places[order], firsts[order])


def _find_alike(keys: np.ndarray) -> np.ndarray:
    """Return the places, ascending, of all repeated keys, and by chance of a few others.

    The places take the low bits of the keys, and then sorting moves nothing but the keys.
    """
    num_bits = np.uint64(len(keys).bit_length())
    packed = keys >> num_bits << num_bits
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    is_same = packed[1:] >> num_bits == packed[:-1] >> num_bits
    is_alike = np.zeros(len(keys), bool)
    is_alike[1:] |= is_same
    is_alike[:-1] |= is_same
    places = packed[is_alike] & ((np.uint64(1) << num_bits) - np.uint64(1))
    return np.sort(places.astype(np.int64))


def bound_top_characters(words: Words) -> np.ndarray:
    """Return at least half of `top_characters` for n-grams of 2, 3 or 4 words, fast: int64 [D].

    Pairs of words fall into cells by their hash; a cell holds all occurrences of its pairs, each
    with its characters and two spaces. An n-gram of up to 4 words is made of at most two pairs,
    each of which occurs at least as often.
    """
    num_documents = len(words.offsets_D1) - 1
    hashes = windows(words, 2)
    cells = (hashes >> np.uint64(64 - _CELL_BITS)).astype(np.int64)
    firsts_D = np.arange(num_documents) << _CELL_BITS
    cells += np.repeat(firsts_D, words.counts_D)[: len(cells)]
    characters = words.lengths_W[:-1] + words.lengths_W[1:] + 2
    # Sums of whole numbers below 2**53 are exact in floating point.
    sums = np.bincount(cells, characters, minlength=num_documents << _CELL_BITS)
    return sums.reshape(num_documents, 1 << _CELL_BITS).max(1).astype(np.int64)


def top_characters(repeats: Repeats) -> np.ndarray:
    """Count the characters of all occurrences of the most frequent n-gram: int64 [D]. Those are its
    words and one space between them. Of equally frequent ones the first in the text counts. 0
    without n-grams."""
    words, num = repeats.words, repeats.num
    firsts_G, sizes_G = np.unique(repeats.firsts_R, return_counts=True)
    # Where none is repeated, the first n-gram is as frequent as any.
    has_any_D = words.counts_D >= num
    tops_D = (1 << 32) - words.offsets_D1[:-1]
    # The largest is the most frequent and, among those, the first.
    documents_G = np.searchsorted(words.offsets_D1, firsts_G, side="right") - 1
    np.maximum.at(tops_D, documents_G, (sizes_G << 32) - firsts_G)
    tops = tops_D[has_any_D]
    sizes = -(-tops >> 32)
    characters = repeats.characters((sizes << 32) - tops) + num - 1
    result_D = np.zeros(len(has_any_D), np.int64)
    result_D[has_any_D] = characters * sizes
    return result_D


def covered_characters(repeats: Repeats) -> np.ndarray:
    """Count the characters of words in an n-gram that occurred before: int64 [D].

    No less than `duplicate_characters`, and no more than the same for fewer words.
    """
    words = repeats.words
    later = repeats.places_R[repeats.places_R > repeats.firsts_R]
    is_covered_W = np.zeros(len(words.lengths_W), bool)
    for place in range(repeats.num):
        is_covered_W[later + place] = True
    covered = np.flatnonzero(is_covered_W)
    total = np.concatenate([[0], np.cumsum(words.lengths_W[covered])])
    return np.diff(total[np.searchsorted(covered, words.offsets_D1)])


def duplicate_characters(repeats: Repeats, documents: np.ndarray) -> np.ndarray:
    """Count the characters of n-grams that were read before, for `documents` (numbers).

    The text is read from left to right. An n-gram that was read before counts, and reading goes
    on behind it; else it is remembered, and reading goes on at the next word.
    """
    bounds_D1 = np.searchsorted(repeats.places_R, repeats.words.offsets_D1)
    result = np.zeros(len(documents), np.int64)
    for number, document in enumerate(documents):
        # N-grams that occur once are remembered in vain.
        chosen = slice(bounds_D1[document], bounds_D1[document + 1])
        known, counted, free = set(), [], 0
        for place, first in zip(
            repeats.places_R[chosen].tolist(), repeats.firsts_R[chosen].tolist(), strict=True
        ):
            if place < free:
                continue
            if first in known:
                counted.append(place)
                free = place + repeats.num
            else:
                known.add(first)
        result[number] = repeats.characters(np.array(counted, np.int64)).sum()
    return result
