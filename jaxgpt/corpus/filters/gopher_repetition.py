"""Gopher's repetition rules: drop documents that repeat themselves.

Source: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training
Gopher" (arXiv:2112.11446), Table A1; counted as in FineWeb (datatrove's GopherRepetitionFilter),
every share being one of the characters of the text.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.corpus.filters.repeated_n_grams import (
    bound_top_characters,
    covered_characters,
    duplicate_characters,
    find_repeats,
    top_characters,
)
from jaxgpt.corpus.filters.text_patterns import count_duplicates, split_paragraphs
from jaxgpt.corpus.text.batch import Judged, Reasons, TextBatch, select_words
from jaxgpt.corpus.text.words import Words


@configclass
class GopherRepetitionConfig:
    """Gopher's repetition rules; None switches a rule off."""

    max_duplicate_paragraph_share: float | None = 0.30
    """Largest share of repeated paragraphs."""
    max_duplicate_paragraph_character_share: float | None = 0.20
    """Largest share of characters in repeated paragraphs."""
    max_duplicate_line_share: float | None = 0.30
    """Largest share of repeated lines, not counting empty ones."""
    max_duplicate_line_character_share: float | None = 0.20
    """Largest share of characters in repeated lines."""
    max_top_2_gram_share: float | None = 0.20
    """Largest share of characters in the most frequent run of 2 words."""
    max_top_3_gram_share: float | None = 0.18
    """Largest share of characters in the most frequent run of 3 words."""
    max_top_4_gram_share: float | None = 0.16
    """Largest share of characters in the most frequent run of 4 words."""
    max_duplicate_5_gram_share: float | None = 0.15
    """Largest share of characters in repeated runs of 5 words."""
    max_duplicate_6_gram_share: float | None = 0.14
    """Largest share of characters in repeated runs of 6 words."""
    max_duplicate_7_gram_share: float | None = 0.13
    """Largest share of characters in repeated runs of 7 words."""
    max_duplicate_8_gram_share: float | None = 0.12
    """Largest share of characters in repeated runs of 8 words."""
    max_duplicate_9_gram_share: float | None = 0.11
    """Largest share of characters in repeated runs of 9 words."""
    max_duplicate_10_gram_share: float | None = 0.10
    """Largest share of characters in repeated runs of 10 words."""

    def build(self) -> "GopherRepetition":
        """Return the step that applies the rules."""
        return GopherRepetition(self)


@dataclasses.dataclass(frozen=True)
class GopherRepetition:
    """Rejects repetitive documents.

    N-grams are not looked at in scripts without spaces between words.
    """

    config: GopherRepetitionConfig
    stage: str = "quality"

    def __call__(self, batch: TextBatch) -> Judged:
        """Judge every document; none is edited."""
        lengths_D = np.array([max(len(text), 1) for text in batch.texts], np.int64)
        reasons = Reasons([*map(self._judge_blocks, batch.texts, batch.lines)])
        rows = np.flatnonzero(reasons.is_open_D & batch.is_spaced_D)
        words = select_words(batch.words, rows)
        self._judge_top(rows, words, lengths_D, reasons)
        self._judge_duplicates(rows, words, lengths_D, reasons)
        return Judged(reasons=reasons.first)

    def _judge_blocks(self, text: str, lines: Sequence[str]) -> str | None:
        config = self.config
        lines = list(filter(None, lines))
        num_lines, line_characters = count_duplicates(lines)
        paragraphs = split_paragraphs(text)
        num_paragraphs, paragraph_characters = count_duplicates(paragraphs)
        for value, total, limit, reason in (
            (
                num_paragraphs,
                len(paragraphs),
                config.max_duplicate_paragraph_share,
                "gopher_duplicate_paragraphs",
            ),
            (
                paragraph_characters,
                len(text),
                config.max_duplicate_paragraph_character_share,
                "gopher_duplicate_paragraph_characters",
            ),
            (num_lines, len(lines), config.max_duplicate_line_share, "gopher_duplicate_lines"),
            (
                line_characters,
                len(text),
                config.max_duplicate_line_character_share,
                "gopher_duplicate_line_characters",
            ),
        ):
            if limit is not None and value / max(total, 1) > limit:
                return reason
        return None

    def _judge_top(
        self, rows: np.ndarray, words: Words, lengths_D: np.ndarray, reasons: Reasons
    ) -> None:
        """Judge the documents `rows`, whose words are `words`."""
        shares = {
            num: share
            for num in (2, 3, 4)
            if (share := getattr(self.config, f"max_top_{num}_gram_share")) is not None
        }
        if not shares:
            return
        bound = 2 * bound_top_characters(words) / lengths_D[rows]
        suspects = np.flatnonzero(bound > min(shares.values()))
        rows, words = rows[suspects], select_words(words, suspects)
        for num, share in shares.items():
            characters = top_characters(find_repeats(words, num))
            reasons.add(rows[characters / lengths_D[rows] > share], f"gopher_top_{num}_gram")

    def _judge_duplicates(
        self, rows: np.ndarray, words: Words, lengths_D: np.ndarray, reasons: Reasons
    ) -> None:
        shares = {
            num: share
            for num in range(5, 11)
            if (share := getattr(self.config, f"max_duplicate_{num}_gram_share")) is not None
        }
        for num, share in shares.items():
            if not len(rows):
                break
            repeats = find_repeats(words, num)
            # More than can count as duplicate here, or for any larger number of words.
            covered = covered_characters(repeats) / lengths_D[rows]
            suspects = np.flatnonzero(covered > share)
            characters = duplicate_characters(repeats, suspects)
            guilty = suspects[characters / lengths_D[rows[suspects]] > share]
            reasons.add(rows[guilty], f"gopher_duplicate_{num}_grams")
            is_left = covered > min(shares.values())
            is_left[guilty] = False
            left = np.flatnonzero(is_left)
            rows, words = rows[left], select_words(words, left)
