"""Gopher's quality rules: drop documents that do not look like running text.

Source: Rae et al. 2021 (arXiv:2112.11446), section A1.1; counted as in FineWeb (datatrove's
GopherQualityFilter), on words between white space.

Axes: C code points, W words, D documents.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.corpus.filters.text_patterns import SYMBOLS
from jaxgpt.corpus.text.batch import Judged, Reasons, TextBatch
from jaxgpt.corpus.text.characters import chunks, table_of
from jaxgpt.corpus.text.words import Words, find_words, space_separated_words

_LETTER, _NOT_SYMBOL, _NOT_SPACE = 1, 2, 4
_BULLETS = ("-", "•")
_ELLIPSES = ("...", "…")


@configclass
class GopherQualityConfig:
    """Gopher's quality rules; None switches a rule off."""

    min_words: int | None = 50
    """Fewest words; those of punctuation only do not count."""
    max_words: int | None = 100_000
    """Most words; those of punctuation only do not count."""
    min_mean_word_length: float | None = 3.0
    """Least mean word length, in characters; words of punctuation only do not count."""
    max_mean_word_length: float | None = 10.0
    """Largest mean word length, in characters."""
    max_hashes_per_word: float | None = 0.1
    """Most # signs per word."""
    max_ellipses_per_word: float | None = 0.1
    """Most ellipses per word."""
    max_bullet_line_share: float | None = 0.9
    """Largest share of lines that begin with - or a bullet."""
    max_ellipsis_line_share: float | None = 0.3
    """Largest share of lines that end with an ellipsis."""
    min_letter_word_share: float | None = 0.8
    """Least share of words with a letter."""
    min_stop_words: int | None = 2
    """Fewest different stop words."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """Stop words in lower case; English ones by default."""

    def build(self) -> "GopherQuality":
        """Return the step that applies the rules."""
        return GopherQuality(self)


@dataclasses.dataclass(frozen=True)
class GopherQuality:
    """Rejects documents that do not look like text.

    In scripts without spaces between words only the two rules on lines apply.
    """

    config: GopherQualityConfig
    stage: str = "quality"

    def __call__(self, batch: TextBatch) -> Judged:
        """Judge every document; none is edited."""
        reasons = Reasons([None] * len(batch.texts))
        is_spaced_D, config = batch.is_spaced_D, self.config
        shapes = word_shapes(batch.texts)
        num_words_D = np.maximum(batch.words.counts_D, 1)
        mean_D = shapes.characters_D / np.maximum(shapes.num_D, 1)
        for is_over_D, reason in (
            (_below(shapes.num_D, config.min_words), "gopher_too_few_words"),
            (_above(shapes.num_D, config.max_words), "gopher_too_many_words"),
            (_below(mean_D, config.min_mean_word_length), "gopher_short_words"),
            (_above(mean_D, config.max_mean_word_length), "gopher_long_words"),
            (
                _above(_count(batch.texts, ("#",)) / num_words_D, config.max_hashes_per_word),
                "gopher_too_many_hashes",
            ),
            (
                _above(_count(batch.texts, _ELLIPSES) / num_words_D, config.max_ellipses_per_word),
                "gopher_too_many_ellipses",
            ),
        ):
            reasons.add(np.flatnonzero(is_over_D & is_spaced_D), reason)
        self._judge_lines(batch, reasons)
        share_D = shapes.num_with_letter_D / num_words_D
        is_under_D = _below(share_D, config.min_letter_word_share)
        reasons.add(np.flatnonzero(is_under_D & is_spaced_D), "gopher_too_few_words_with_letters")
        if config.min_stop_words is not None:
            found_D = _num_found(batch.words, config.stop_words)
            is_under_D = found_D < config.min_stop_words
            reasons.add(np.flatnonzero(is_under_D & is_spaced_D), "gopher_too_few_stop_words")
        return Judged(reasons=reasons.first)

    def _judge_lines(self, batch: TextBatch, reasons: Reasons) -> None:
        for share, signs, is_marked, reason in (
            (
                self.config.max_bullet_line_share,
                _BULLETS,
                lambda line: line.lstrip().startswith(_BULLETS),
                "gopher_too_many_bullet_lines",
            ),
            (
                self.config.max_ellipsis_line_share,
                _ELLIPSES,
                lambda line: line.rstrip().endswith(_ELLIPSES),
                "gopher_too_many_ellipsis_lines",
            ),
        ):
            if share is None:
                continue
            is_over_D = np.zeros(len(batch.texts), bool)
            for document, (text, lines) in enumerate(zip(batch.texts, batch.lines, strict=True)):
                # An end of line ends the line before it and begins none.
                num_lines = max(len(lines) - text.endswith("\n"), 1)
                # Few lines can be marked by signs that the whole text has few of.
                if sum(map(text.count, signs)) / num_lines > share:
                    is_over_D[document] = sum(map(is_marked, lines)) / num_lines > share
            reasons.add(np.flatnonzero(is_over_D), reason)


@dataclasses.dataclass(frozen=True)
class WordShapes:
    """Statistics of the words of documents.

    Attributes:
        num_D: words that are not only punctuation, int64.
        characters_D: of those.
        num_with_letter_D: words with a letter.
    """

    num_D: np.ndarray
    characters_D: np.ndarray
    num_with_letter_D: np.ndarray


def word_shapes(texts: Sequence[str]) -> WordShapes:
    """Look at the words between white space of every text."""
    shapes = WordShapes(*(np.zeros(len(texts), np.int64) for _ in range(3)))
    kinds = _kinds()
    for documents, codes_C, starts_D in chunks(texts):
        # With a space at either end, so that every word has an edge there.
        kinds_C = np.zeros(len(codes_C) + 2, np.uint8)
        kinds.take(codes_C, mode="clip", out=kinds_C[1:-1])
        in_word_C = kinds_C != 0
        edges = np.flatnonzero(in_word_C[1:] != in_word_C[:-1])
        starts_W, ends_W = edges[::2], edges[1::2]
        kinds_W = kinds_C[starts_W + 1]
        # Most words begin with a letter; only the others are looked at further.
        others = np.flatnonzero(kinds_W & (_LETTER | _NOT_SYMBOL) != _LETTER | _NOT_SYMBOL)
        if len(others):
            spans = np.stack([starts_W[others], ends_W[others]], axis=1) + 1
            kinds_W[others] = np.bitwise_or.reduceat(kinds_C, spans.ravel())[::2]
        bounds_D1 = np.searchsorted(starts_W, np.append(starts_D, len(codes_C)))
        is_word_W = (kinds_W & _NOT_SYMBOL) != 0
        shapes.num_D[documents] = _sums(is_word_W, bounds_D1)
        shapes.characters_D[documents] = _sums((ends_W - starts_W) * is_word_W, bounds_D1)
        shapes.num_with_letter_D[documents] = _sums((kinds_W & _LETTER) != 0, bounds_D1)
    return shapes


def _sums(values_W: np.ndarray, bounds_D1: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0], np.cumsum(values_W, dtype=np.int64)])
    return np.diff(total[bounds_D1])


@functools.cache
def _kinds() -> np.ndarray:
    """Return the kind of every code point; 0 for white space."""
    return table_of(
        lambda character: (
            0
            if character.isspace()
            else _NOT_SPACE
            | (_NOT_SYMBOL if character not in SYMBOLS else 0)
            | (_LETTER if character.isalpha() else 0)
        )
    )


def _above(values_D: np.ndarray, limit: float | None) -> np.ndarray:
    return np.zeros(len(values_D), bool) if limit is None else values_D > limit


def _below(values_D: np.ndarray, limit: float | None) -> np.ndarray:
    return np.zeros(len(values_D), bool) if limit is None else values_D < limit


def _count(texts: Sequence[str], signs: Sequence[str]) -> np.ndarray:
    return np.array([sum(map(text.count, signs)) for text in texts], np.int64)


def _num_found(words: Words, wanted: Sequence[str]) -> np.ndarray:
    """Return how many of the wanted words occur in each document: int64 [D]."""
    num_documents = len(words.offsets_D1) - 1
    hashes = np.unique(space_separated_words(wanted).hashes_W)
    if not len(hashes):
        return np.zeros(num_documents, np.int64)
    places, which = find_words(words, hashes)
    is_found_DH = np.zeros((num_documents, len(hashes)), bool)
    is_found_DH[np.searchsorted(words.offsets_D1, places, side="right") - 1, which] = True
    return is_found_DH.sum(1)
