"""Words of many documents at once, as hashes, for filters, deduplication and decontamination.

A batch of documents becomes one array of code points, and all the rest is arithmetic on arrays:
where words begin and end, a 64-bit hash of each, hashes of every n neighbours. A hash depends on
the word alone, never on the batch or the machine. It is no cryptographic hash: words can be made to
collide.

Axes: C code points, W words, D documents.
"""

import dataclasses
import functools
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jaxgpt.corpus.text.characters import code_points, table_of
from jaxgpt.corpus.text.scripts import UNSPACED_BLOCKS

# Code points that are looked at together; the arrays for them stay in the processor's cache.
_CHUNK_CHARACTERS = 1 << 18
# Odd, so that it has an inverse modulo 2**64; the digits are those of the golden ratio.
_BASE = 0x9E3779B97F4A7C15
_LOW_BITS = np.uint64(0xFFFF)
SEPARATOR, LETTER, WORD = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Words:
    """Words of a batch of documents, one after the other.

    Attributes:
        hashes_W: uint64.
        lengths_W: in code points, int64.
        offsets_D1: int64 [D + 1]; document d has the words offsets_D1[d]:offsets_D1[d + 1].
    """

    hashes_W: np.ndarray
    lengths_W: np.ndarray
    offsets_D1: np.ndarray

    @property
    def counts_D(self) -> np.ndarray:
        """Number of words of each document."""
        return np.diff(self.offsets_D1)


def unicode_words(texts: Sequence[str]) -> Words:
    """Return runs of letters, marks, digits and underscores, in lower case. In a script without
    spaces every character is a word, so n neighbours are a character n-gram.
    """
    return _words([text.lower() for text in texts], unicode_kinds)


def space_separated_words(texts: Sequence[str]) -> Words:
    """Return the words that `str.split` returns, case kept."""
    return _words(texts, _space_kinds)


def neighbours(words: Words, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes of every `num` neighbouring words (word n-grams), document by document.

    Returns:
        uint64 [N] and int64 offsets [D + 1]; a document of fewer than `num` words has none.
    """
    counts_D = np.maximum(words.counts_D - (num - 1), 0)
    offsets_D1 = np.concatenate([[0], np.cumsum(counts_D)])
    if not offsets_D1[-1]:
        return np.zeros(0, np.uint64), offsets_D1
    return mix(windows(words, num)[is_within(words, num)]), offsets_D1


def windows(words: Words, num: int) -> np.ndarray:
    """Return polynomials mod 2**64 in the hashes of `num` words from each on: uint64 [W - num + 1].

    Those that begin near the end of a document reach into the next one: `is_within` tells them.
    """
    num_windows = max(len(words.hashes_W) - num + 1, 0)
    sums = words.hashes_W[:num_windows].copy()
    for place in range(1, num):
        sums *= _BASE
        sums += words.hashes_W[place : place + num_windows]
    return sums


def is_within(words: Words, num: int) -> np.ndarray:
    """Return whether the `num` words from each word on are of one document: bool [W - num + 1]."""
    is_within = np.ones(max(len(words.hashes_W) - num + 1, 0), bool)
    lasts_D = words.offsets_D1[1:-1]
    for back in range(1, num):
        places = lasts_D - back
        is_within[places[(places >= 0) & (places < len(is_within))]] = False
    return is_within


def find_words(words: Words, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the places of some words.

    Args:
        wanted: hashes of one word at least, ascending.

    Returns:
        places among all words, ascending, and which of the wanted ones is there; int64 both.
    """
    # Most words are none, and a table of the low 16 bits of the hashes tells most of those.
    is_likely = np.zeros(1 << 16, bool)
    is_likely[wanted & _LOW_BITS] = True
    # NumPy 2.0 refuses uint64 as indices, and later versions take ten times as long to convert
    # them; 16 bits are the same number as int64.
    low_bits = (words.hashes_W & _LOW_BITS).view(np.int64)
    places = np.flatnonzero(is_likely.take(low_bits, mode="clip"))
    hashes = words.hashes_W[places]
    which = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
    is_found = wanted[which] == hashes
    return places[is_found], which[is_found]


def _words(texts: Sequence[str], kinds_of: Callable[[], np.ndarray]) -> Words:
    kinds = kinds_of()
    hashes, lengths = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    counts_D = np.zeros(len(texts), np.int64)
    # Memory that is not asked for again is still in the cache.
    sums = np.empty(_CHUNK_CHARACTERS + 1, np.uint64)
    for documents, codes_C, starts in word_chunks(texts):
        starts_W, ends_W = word_boundaries(kinds.take(codes_C, mode="clip"))
        hashes.append(hash_spans(codes_C, starts_W, ends_W, sums[: len(codes_C) + 1]))
        lengths.append(ends_W - starts_W)
        counts_D[documents] += np.diff(np.searchsorted(starts_W, [*starts, len(codes_C)]))
    return Words(
        np.concatenate(hashes), np.concatenate(lengths), np.concatenate([[0], np.cumsum(counts_D)])
    )


def word_chunks(texts: Sequence[str]) -> Iterator[tuple[slice, np.ndarray, list[int]]]:
    """Yield (documents, their code points joined by newlines, where each begins).

    A document longer than a chunk comes alone, in pieces cut after a newline or space where there
    is one: how it is cut depends on nothing but its text.
    """
    first, size, starts = 0, 0, []
    for number, text in enumerate(texts):
        if len(text) > _CHUNK_CHARACTERS or size + len(text) > _CHUNK_CHARACTERS:
            if starts:
                yield slice(first, number), code_points("\n".join(texts[first:number])), starts
            first, size, starts = number, 0, []
        if len(text) > _CHUNK_CHARACTERS:
            for piece in _pieces(text):
                yield slice(number, number + 1), code_points(piece), [0]
            first = number + 1
        else:
            starts.append(size)
            size += len(text) + 1
    if starts:
        yield slice(first, len(texts)), code_points("\n".join(texts[first:])), starts


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _CHUNK_CHARACTERS:
        end = start + _CHUNK_CHARACTERS
        cut = max(text.rfind(" ", start, end), text.rfind("\n", start, end)) + 1
        end = cut or end
        yield text[start:end]
        start = end
    yield text[start:]


def word_boundaries(kinds_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where words start, and the first place after each."""
    is_letter = np.zeros(len(kinds_C) + 2, bool)
    np.equal(kinds_C, LETTER, out=is_letter[1:-1])
    edges = np.flatnonzero(is_letter[1:] != is_letter[:-1])
    starts_W, ends_W = edges[::2], edges[1::2]
    alone = np.flatnonzero(kinds_C == WORD)
    if not len(alone):
        return starts_W, ends_W
    # Words do not overlap: their ends are in the order of their starts.
    return np.sort(np.append(starts_W, alone)), np.sort(np.append(ends_W, alone + 1))


def hash_spans(
    codes_C: np.ndarray, starts_W: np.ndarray, ends_W: np.ndarray, sums_C1: np.ndarray
) -> np.ndarray:
    """Return hashes of spans of code points: uint64 [W], 0 for an empty span.

    They are polynomials modulo 2**64, taken as differences of one running sum.

    Args:
        codes_C: at most as many as a chunk has.
        starts_W, ends_W: the spans.
        sums_C1: uint64, scratch space for that sum.
    """
    powers, inverses = _powers()
    sums_C1[0] = 0
    # One more than the code point, so that no word is a prefix of zeros of another.
    np.multiply(codes_C + codes_C.dtype.type(1), powers[: len(codes_C)], out=sums_C1[1:])
    np.cumsum(sums_C1[1:], out=sums_C1[1:])
    return mix((sums_C1[ends_W] - sums_C1[starts_W]) * inverses[starts_W])


def mix(hashes: np.ndarray) -> np.ndarray:
    """Spread every input bit over all output bits: splitmix64's finaliser (Steele et al. 2014)."""
    hashes = hashes ^ (hashes >> np.uint64(30))
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(0x94D049BB133111EB)
    hashes ^= hashes >> np.uint64(31)
    return hashes


@functools.cache
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """Return _BASE**i and its inverse, modulo 2**64, for every place in a chunk."""
    both = []
    for factor in (_BASE, pow(_BASE, -1, 2**64)):
        powers = np.full(_CHUNK_CHARACTERS + 1, factor, np.uint64)
        powers[0] = 1
        both.append(np.cumprod(powers))
    return both[0], both[1]


def _kind_of(category: str) -> int:
    """Return the kind of a character by Unicode's name for its category."""
    return LETTER if category[0] in "LMN" or category == "Pc" else SEPARATOR


@functools.cache
def unicode_kinds() -> np.ndarray:
    """Return the kinds of characters: letters, marks, numbers and connectors make words."""
    kinds = table_of(lambda character: _kind_of(unicodedata.category(character)))
    # Without spaces between words every character counts as a word.
    for first, last in UNSPACED_BLOCKS:
        block = kinds[first : last + 1]
        block[block == LETTER] = WORD
    return kinds


@functools.cache
def _space_kinds() -> np.ndarray:
    kinds = np.full(sys.maxunicode + 1, LETTER, np.uint8)
    kinds[[code for code in range(0x3001) if chr(code).isspace()]] = SEPARATOR
    return kinds
