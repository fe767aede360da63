"""Words as they are written: with their case, and with the symbols between them.

White space does not count, and variants of type are one: quotation marks, dashes, full-width and
CJK punctuation.

Axes: C code points, S symbols, W words, D documents, U written words: the words of each document
and a last one, no word, that has the symbols after them.
"""

import dataclasses
import functools
import itertools
import sys
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from jaxgpt.corpus.text.characters import table_of
from jaxgpt.corpus.text.words import (
    SEPARATOR,
    WORD,
    hash_spans,
    mix,
    unicode_kinds,
    word_boundaries,
    word_chunks,
)

_BASE = np.uint64(0xD6E8FEB86659FD93)
_SPACE, _PUNCTUATION, _JOINER, _BRACKET, _SYMBOL = range(5)
_QUOTES = "'‘’‚‛“”„‟«»‹›「」『』〝〞〟′″＂＇"
_DASHES = "‐‑‒–—―−－"
_CLASSES = {"'": _JOINER, "’": _JOINER, "(": _BRACKET, ")": _BRACKET}


@dataclasses.dataclass(frozen=True)
class WrittenWords:
    """The written words of one document, in order.

    Attributes:
        words_U: uint64 hashes of the words in lower case.
        cased_U: uint64 hashes of the words as they are.
        gaps_U: uint64 hashes of the symbols before each; 0 if there are none.
        is_code_U: whether it is written as in code: with symbols that prose rarely has, with
            punctuation but no space before it, or with a capital inside.
        is_number_U: whether it begins with a digit.
    """

    words_U: np.ndarray
    cased_U: np.ndarray
    gaps_U: np.ndarray
    is_code_U: np.ndarray
    is_number_U: np.ndarray

    @property
    def num_words(self) -> int:
        """Return the number of words."""
        return len(self.words_U) - 1

    def written_words(self, most: int) -> np.ndarray:
        """Return hashes of the first words as they are, each with the symbols before it."""
        num = min(self.num_words, most)
        return mix(self.cased_U[:num] * _BASE + self.gaps_U[:num])


def written_words(texts: Sequence[str]) -> Iterator[WrittenWords]:
    """Yield the written words of each text, in order."""
    lowered = [_lower(text) for text in texts]
    document, pieces = -1, []
    both = zip(word_chunks(texts), word_chunks(lowered), strict=True)
    for (documents, codes_C, starts), (_, lower_C, _) in both:
        # A long text comes in pieces.
        if documents.start != document:
            yield from _joined(pieces)
            document, pieces = documents.start, []
        found = _find(codes_C, lower_C, np.array(starts, np.int64))
        if documents.stop - documents.start == 1:
            pieces += found
        else:
            yield from found
    yield from _joined(pieces)


def _lower(text: str) -> str:
    """Return the text in lower case, as long as it was."""
    return text.replace("İ", "i").lower()


def _joined(pieces: Sequence[WrittenWords]) -> Iterator[WrittenWords]:
    """Yield the document that was cut into these pieces, unless there are none."""
    if len(pieces) <= 1:
        yield from pieces
        return
    joined = {}
    for field in dataclasses.fields(WrittenWords):
        parts = [getattr(piece, field.name) for piece in pieces]
        joined[field.name] = np.concatenate([*(part[:-1] for part in parts[:-1]), parts[-1]])
    firsts = np.cumsum([piece.num_words for piece in pieces[:-1]])
    # Usually a cut has symbols on one side at most, and the sum is what the whole gap would have.
    np.add.at(joined["gaps_U"], firsts, np.array([piece.gaps_U[-1] for piece in pieces[:-1]]))
    yield WrittenWords(**joined)


def _find(codes_C: np.ndarray, lower_C: np.ndarray, starts_D: np.ndarray) -> list[WrittenWords]:
    kinds_C = unicode_kinds().take(codes_C, mode="clip")
    starts_W, ends_W = word_boundaries(kinds_C)
    stops_D = np.append(starts_D[1:] - 1, len(codes_C))
    first_D = np.searchsorted(starts_W, starts_D)
    stop_D = np.append(first_D[1:], len(starts_W))
    scratch = np.empty(len(codes_C) + 1, np.uint64)
    from_U = np.insert(ends_W, first_D, starts_D)
    to_U = np.insert(starts_W, stop_D, stops_D)
    classes_C = np.where(kinds_C == SEPARATOR, _classes().take(codes_C, mode="clip"), 0)
    symbols = np.flatnonzero(classes_C)
    first_U, end_U = np.searchsorted(symbols, from_U), np.searchsorted(symbols, to_U)
    gaps_U = hash_spans(
        _variants().take(codes_C[symbols]), first_U, end_U, scratch[: len(symbols) + 1]
    )
    is_code_W = _has_inner_capital(codes_C, lower_C, starts_W, ends_W)
    is_code_U = np.insert(is_code_W, stop_D, False)
    is_code_U |= _is_gap_of_code(kinds_C, classes_C, symbols, (from_U, to_U), (first_U, end_U))
    units = {
        "words_U": np.insert(hash_spans(lower_C, starts_W, ends_W, scratch), stop_D, 0),
        "cased_U": np.insert(hash_spans(codes_C, starts_W, ends_W, scratch), stop_D, 0),
        "gaps_U": gaps_U,
        "is_code_U": is_code_U,
        "is_number_U": np.insert(_is_digit(codes_C[starts_W]), stop_D, False),
    }
    bounds = [0, *(stop_D + np.arange(1, len(stop_D) + 1)).tolist()]
    return [
        WrittenWords(**{name: units[name][start:stop] for name in units})
        for start, stop in itertools.pairwise(bounds)
    ]


def _is_gap_of_code(
    kinds_C: np.ndarray,
    classes_C: np.ndarray,
    symbols: np.ndarray,
    places: tuple[np.ndarray, np.ndarray],
    symbol_places: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Return for each gap whether prose rarely has such symbols; bool [U].

    Args:
        places: beginnings and ends of gaps in the text.
        symbol_places: beginnings and ends of their symbols among all symbols.
    """
    (from_U, to_U), (first_U, end_U) = places, symbol_places
    classes_S = classes_C[symbols]
    num_U = end_U - first_U

    def count(which: int) -> np.ndarray:
        sums = np.concatenate([[0], np.cumsum(classes_S == which)])
        return sums[end_U] - sums[first_U]

    sides = np.concatenate([[SEPARATOR], kinds_C, [SEPARATOR]])
    before, after = sides[from_U], sides[to_U + 1]
    is_between = (before != SEPARATOR) & (after != SEPARATOR)
    # There punctuation has no space at it.
    is_between &= (before != WORD) & (after != WORD)
    is_joined = (num_U == 1) & (count(_JOINER) == 1)
    is_attached = (num_U > 0) & (num_U == to_U - from_U) & is_between & ~is_joined
    return (count(_SYMBOL) > 0) | (count(_BRACKET) > 1) | is_attached


def _has_inner_capital(
    codes_C: np.ndarray, lower_C: np.ndarray, starts_W: np.ndarray, ends_W: np.ndarray
) -> np.ndarray:
    """Return whether a word has a capital after a small letter of ASCII; bool [W]."""
    is_inner = np.zeros(len(codes_C) + 1, np.int64)
    before = codes_C[:-1]
    is_inner[2:] = (codes_C[1:] != lower_C[1:]) & (before >= ord("a")) & (before <= ord("z"))
    sums = np.cumsum(is_inner)
    # The first letter of a word has none before it.
    return sums[ends_W] > sums[np.minimum(starts_W + 1, ends_W)]


def _is_digit(codes: np.ndarray) -> np.ndarray:
    return (codes >= ord("0")) & (codes <= ord("9"))


def _class_of(character: str) -> int:
    if character.isspace():
        return _SPACE
    if character in _CLASSES:
        return _CLASSES[character]
    category = unicodedata.category(character)
    if category == "Pd":
        return _JOINER
    if category[0] == "C":
        return _SPACE
    if character in '.,;:!?"' or (category[0] == "P" and not character.isascii()):
        return _PUNCTUATION
    return _SYMBOL


@functools.cache
def _classes() -> np.ndarray:
    return table_of(_class_of)


@functools.cache
def _variants() -> np.ndarray:
    """Return the standard symbol of each character: uint32 [0x110000]."""
    table = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    table[0xFF01:0xFF5F] -= 0xFEE0
    for variants, one in ((_QUOTES, '"'), (_DASHES, "-"), ("。｡", "."), ("、､，", ",")):
        table[[ord(variant) for variant in variants]] = ord(one)
    return table
