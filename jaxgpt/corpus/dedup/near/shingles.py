"""Shingles: the set of word n-grams by which documents are compared (Broder 1997).

Axes: W words, S shingles, D documents.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxgpt.corpus.text.words import Words, neighbours, unicode_words


@dataclasses.dataclass(frozen=True)
class Shingles:
    """Shingles of several documents, one after the other, in the order of the text.

    Attributes:
        hashes_S: uint64; a shingle that a text repeats is there as often as in the text.
        offsets_D1: int64 [D + 1]; document d has hashes_S[offsets_D1[d]:offsets_D1[d + 1]].
    """

    hashes_S: np.ndarray
    offsets_D1: np.ndarray

    @property
    def counts_D(self) -> np.ndarray:
        """Number of shingles of each document."""
        return np.diff(self.offsets_D1)

    def unique(self, document: int) -> np.ndarray:
        """Return the set of shingles of one document, as a sorted array."""
        return np.unique(self.hashes_S[self.offsets_D1[document] : self.offsets_D1[document + 1]])


def shingle(texts: Sequence[str], ngram: int) -> Shingles:
    """Return hashes of every `ngram` neighbouring words of each text.

    Where a script has no spaces the words are characters (see `corpus/text/words.py`). A text of
    fewer words has one shingle, all of its words; a text without words has none.
    """
    words = unicode_words(texts)
    hashes_S, offsets_D1 = neighbours(words, ngram)
    short_D = np.flatnonzero((words.counts_D < ngram) & (words.counts_D > 0))
    if not len(short_D):
        return Shingles(hashes_S, offsets_D1)
    whole = np.concatenate([_whole(words, short_D, num) for num in range(1, ngram)])
    places = np.concatenate([short_D[words.counts_D[short_D] == num] for num in range(1, ngram)])
    counts_D = np.diff(offsets_D1)
    counts_D[short_D] = 1
    order = np.argsort(places)
    hashes_S = np.insert(hashes_S, offsets_D1[places[order]], whole[order])
    return Shingles(hashes_S, np.concatenate([[0], np.cumsum(counts_D)]))


def _whole(words: Words, documents_D: np.ndarray, num: int) -> np.ndarray:
    """Return, for each document of exactly `num` words, the hash of them all."""
    starts = words.offsets_D1[documents_D[words.counts_D[documents_D] == num]]
    places = starts[:, None] + np.arange(num)
    alone = Words(
        words.hashes_W[places].ravel(),
        words.lengths_W[places].ravel(),
        np.arange(len(starts) + 1) * num,
    )
    return neighbours(alone, num)[0]
