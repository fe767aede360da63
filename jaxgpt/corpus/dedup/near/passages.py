"""Passages: short runs of words by which texts are compared as written, with case and symbols.

A passage is `ngram` neighbouring words with the symbols between them; some of the words may lie
before the beginning or after the end of the text, so that every symbol is in `ngram - 1` passages
wherever it stands. Where words repeat so often that unrelated texts share passages by chance
(signs, bits, bases), passages are longer.

Prose has no passages: it is compared by its words alone. Its case and punctuation change from one
edition to the next, and carry little.
"""

from collections.abc import Sequence

import numpy as np

from jaxgpt.corpus.dedup.near.written_words import WrittenWords, written_words
from jaxgpt.corpus.text.words import mix

# In a shorter text one symbol may be all that matters, so it is never taken as prose.
MIN_PROSE_WORDS = 32
# Shares of the words of prose that may be written as in code, or be numbers.
MAX_CODE_SHARE = 0.1
MAX_NUMBER_SHARE = 0.5
# Bits of a passage beyond those that number the words of a text: one passage in 64 at most is in an
# unrelated text by chance.
_SPARE_BITS = 6
# Words from the beginning of a text by which its entropy is estimated.
_MAX_SAMPLE_WORDS = 4096
# As few different pairs of neighbours, each there several times, tell which word follows which.
# Tables and lists of pages have more.
_MAX_PAIRS = 32
_MAX_PAIRS_SHARE = 0.25
_BASE = 0xD6E8FEB86659FD93
_PAIR_BASE = np.uint64(0xA0761D6478BD642F)
_GAP_BASE = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
# Stands before the first word and after the last one.
_NO_WORD = np.uint64(0x2545F4914F6CDD1D)


def write_passages(texts: Sequence[str], ngram: int) -> list[np.ndarray]:
    """Return the set of passages of each text; an empty one for prose and for texts without words.

    Each is uint64, sorted. The high half of a passage tells its words, the low half how they are
    written. The high half of a passage of more than `ngram` words is its length.
    """
    shortest = max(ngram, 2)
    return [_passages(words, shortest) for words in written_words(texts)]


def words_of(passages: np.ndarray) -> np.ndarray:
    """Return the high halves: they are equal if the words are."""
    return passages >> _HALF


def _passages(words: WrittenWords, shortest: int) -> np.ndarray:
    if not words.num_words:
        return np.zeros(0, np.uint64)
    num = _length(words, shortest)
    if num == shortest and _is_prose(words):
        return np.zeros(0, np.uint64)
    gaps = _pad(words.gaps_U, num, np.uint64(0))
    written = _windows(_pad(words.cased_U, num) * _GAP_BASE + gaps, num)
    # The symbols before its first word are not in a passage.
    written -= gaps[: len(written)] * _power(num - 1)
    passages = mix(written) >> _HALF
    if num == shortest:
        passages |= mix(_windows(_pad(words.words_U, num), num)) & ~_LOW
    else:
        passages |= np.uint64(num << 32)
    return np.unique(passages)


def _is_prose(words: WrittenWords) -> bool:
    return (
        words.num_words >= MIN_PROSE_WORDS
        and words.is_code_U.sum() <= MAX_CODE_SHARE * words.num_words
        and words.is_number_U.sum() <= MAX_NUMBER_SHARE * words.num_words
    )


def _length(words: WrittenWords, shortest: int) -> int:
    """Return the number of words of a passage: `shortest`, doubled as often as necessary."""
    num_words = words.num_words
    num_bits = np.log2(num_words) + _SPARE_BITS
    entropy = _entropy(words.written_words(_MAX_SAMPLE_WORDS))
    num = shortest
    while num < num_words and num * entropy < num_bits:
        num *= 2
    return num


def _entropy(written_W: np.ndarray) -> float:
    """Return the bits that a word adds to those before it, as far as the text can tell."""
    bits, _ = _bits_of(written_W)
    pairs = written_W[:-1] * _PAIR_BASE + written_W[1:]
    bits_of_pairs, num_pairs = _bits_of(pairs)
    is_known = num_pairs <= min(_MAX_PAIRS, _MAX_PAIRS_SHARE * len(pairs))
    return bits_of_pairs - bits if is_known else bits


def _bits_of(values: np.ndarray) -> tuple[float, int]:
    """Return the entropy of the values in bits, and the number of different ones."""
    _, counts = np.unique(values, return_counts=True)
    shares = counts / max(len(values), 1)
    return float(-(shares * np.log2(shares)).sum()), len(counts)


def _pad(values_U: np.ndarray, num: int, padding: np.uint64 = _NO_WORD) -> np.ndarray:
    """Return the values with `num - 1` more at either end; one less after the last."""
    padded = np.full(len(values_U) + 2 * (num - 1) - 1, padding, np.uint64)
    padded[num - 1 : num - 1 + len(values_U)] = values_U
    return padded


def _windows(values: np.ndarray, num: int) -> np.ndarray:
    """Return polynomials modulo 2**64 in every `num` neighbours, by doubling."""
    sums, size = values, 1
    for bit in bin(num)[3:]:
        sums = sums[:-size] * _power(size) + sums[size:]
        size *= 2
        if bit == "1":
            sums = sums[:-1] * _power(1) + values[size:]
            size += 1
    return sums


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(_BASE, exponent, 1 << 64))
