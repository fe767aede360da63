"""FineWeb's own rules: lists, menus and other pages whose lines are no sentences.

Source: Penedo et al. 2024, "The FineWeb Datasets" (arXiv:2406.17557), section 3.6; counted as in
datatrove's FineWebQualityFilter.
"""

import dataclasses

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.corpus.filters.gopher_repetition import count_duplicates
from jaxgpt.corpus.filters.punctuation import SENTENCE_ENDS
from jaxgpt.corpus.filters.reasons import Reasons
from jaxgpt.corpus.text_batch import Judged, TextBatch


@configclass
class FineWebConfig:
    """FineWeb's rules; None switches a rule off. Blank lines are not counted."""

    min_punctuated_line_share: float | None = 0.12
    """Of the lines, those that end with what ends a sentence."""
    max_short_line_share: float | None = 0.67
    """Of the lines, those of few characters."""
    short_line_characters: int = 30
    """A line up to this length is short."""
    max_duplicate_line_character_share: float | None = 0.01
    """Of the characters, those in lines that came before."""
    max_newlines_per_word: float | None = 0.3
    """Line ends for each word."""

    def build(self) -> "FineWeb":
        """The step that applies them."""
        return FineWeb(self)


@dataclasses.dataclass(frozen=True)
class FineWeb:
    """Rejects pages made of fragments.

    Line ends are not held against words in scripts without spaces between words.
    """

    config: FineWebConfig
    stage: str = "quality"

    def __call__(self, batch: TextBatch) -> Judged:
        """Judge every document; none is edited."""
        config = self.config
        reasons = Reasons(len(batch.texts))
        lines = [[line for line in some if line and not line.isspace()] for some in batch.lines]
        num_lines_D = np.array([max(len(some), 1) for some in lines], np.int64)
        if config.min_punctuated_line_share is not None:
            num_D = _array(sum(line[-1] in SENTENCE_ENDS for line in some) for some in lines)
            is_under_D = num_D / num_lines_D < config.min_punctuated_line_share
            reasons.add(is_under_D, "fineweb_too_few_punctuated_lines")
        if config.max_short_line_share is not None:
            limit = config.short_line_characters
            num_D = _array(sum(len(line) <= limit for line in some) for some in lines)
            is_over_D = num_D / num_lines_D > config.max_short_line_share
            reasons.add(is_over_D, "fineweb_too_many_short_lines")
        num_newlines_D = _array(len(some) - 1 for some in batch.lines)
        if config.max_duplicate_line_character_share is not None:
            lengths_D = _array(map(len, batch.texts)) - num_newlines_D
            share_D = count_duplicates(lines)[1] / np.maximum(lengths_D, 1)
            is_over_D = share_D > config.max_duplicate_line_character_share
            reasons.add(is_over_D, "fineweb_duplicate_line_characters")
        if config.max_newlines_per_word is not None:
            is_over_D = num_newlines_D / _num_words(batch) > config.max_newlines_per_word
            reasons.add(is_over_D & batch.is_spaced_D, "fineweb_too_many_newlines")
        return Judged(reasons=reasons.first)


def _num_words(batch: TextBatch) -> np.ndarray:
    return np.maximum(_array(len(text.split()) for text in batch.texts), 1)


def _array(numbers) -> np.ndarray:
    return np.fromiter(numbers, np.int64)
