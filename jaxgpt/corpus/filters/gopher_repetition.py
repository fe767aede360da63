"""Gopher's repetition rules: documents that say the same again and again.

Source: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training
Gopher" (arXiv:2112.11446), Table A1; counted as in FineWeb (datatrove's GopherRepetitionFilter),
every share being one of the characters of the text.
"""

import dataclasses
import re

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.corpus.filters.reasons import Reasons
from jaxgpt.corpus.filters.repeated_n_grams import (
    MAX_DOCUMENTS,
    covered_characters,
    duplicate_characters,
    group_n_grams,
    top_characters,
)
from jaxgpt.corpus.text_batch import Judged, TextBatch, select_words
from jaxgpt.corpus.words import Words

_PARAGRAPH_END = re.compile(r"\n{2,}")


@configclass
class GopherRepetitionConfig:
    """Gopher's repetition rules; None switches a rule off."""

    max_duplicate_paragraph_share: float | None = 0.30
    """Of the paragraphs, those that came before."""
    max_duplicate_paragraph_character_share: float | None = 0.20
    """Of the characters, those in paragraphs that came before."""
    max_duplicate_line_share: float | None = 0.30
    """Of the lines that are not empty, those that came before."""
    max_duplicate_line_character_share: float | None = 0.20
    """Of the characters, those in lines that came before."""
    max_top_2_gram_share: float | None = 0.20
    """Of the characters, those in the most frequent pair of words."""
    max_top_3_gram_share: float | None = 0.18
    """The same for 3 words."""
    max_top_4_gram_share: float | None = 0.16
    """The same for 4 words."""
    max_duplicate_5_gram_share: float | None = 0.15
    """Of the characters, those in runs of 5 words that came before."""
    max_duplicate_6_gram_share: float | None = 0.14
    """The same for 6 words."""
    max_duplicate_7_gram_share: float | None = 0.13
    """The same for 7 words."""
    max_duplicate_8_gram_share: float | None = 0.12
    """The same for 8 words."""
    max_duplicate_9_gram_share: float | None = 0.11
    """The same for 9 words."""
    max_duplicate_10_gram_share: float | None = 0.10
    """The same for 10 words."""

    def build(self) -> "GopherRepetition":
        """The step that applies them."""
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
        reasons = Reasons(len(batch.texts))
        lengths_D = np.array([max(len(text), 1) for text in batch.texts], np.int64)
        self._judge_blocks(batch, lengths_D, reasons)
        rows = np.flatnonzero(reasons.is_open_D & batch.is_spaced_D)
        for first in range(0, len(rows), MAX_DOCUMENTS):
            some = rows[first : first + MAX_DOCUMENTS]
            words = select_words(batch.words, some)
            some, words = self._judge_top(some, words, lengths_D, reasons)
            self._judge_duplicates(some, words, lengths_D, reasons)
        return Judged(reasons=reasons.first)

    def _judge_blocks(self, batch: TextBatch, lengths_D: np.ndarray, reasons: Reasons) -> None:
        config = self.config
        paragraphs = [_PARAGRAPH_END.split(text.strip()) for text in batch.texts]
        lines = [[line for line in lines if line] for lines in batch.lines]
        rules = (
            (
                "paragraph",
                paragraphs,
                config.max_duplicate_paragraph_share,
                config.max_duplicate_paragraph_character_share,
            ),
            (
                "line",
                lines,
                config.max_duplicate_line_share,
                config.max_duplicate_line_character_share,
            ),
        )
        for kind, blocks, max_share, max_character_share in rules:
            num_D, characters_D = count_duplicates(blocks)
            totals_D = np.array([max(len(some), 1) for some in blocks], np.int64)
            if max_share is not None:
                reasons.add(num_D / totals_D > max_share, f"gopher_duplicate_{kind}s")
            if max_character_share is not None:
                is_over_D = characters_D / lengths_D > max_character_share
                reasons.add(is_over_D, f"gopher_duplicate_{kind}_characters")

    def _judge_top(
        self, rows: np.ndarray, words: Words, lengths_D: np.ndarray, reasons: Reasons
    ) -> tuple[np.ndarray, Words]:
        """Judge the documents `rows`, whose words are `words`; return what is left of both."""
        for num in (2, 3, 4):
            share = getattr(self.config, f"max_top_{num}_gram_share")
            if share is None or not len(rows):
                continue
            n_grams = group_n_grams(words, num)
            is_over = top_characters(n_grams) / lengths_D[rows] > share
            _reject(reasons, rows[is_over], f"gopher_top_{num}_gram")
            left = np.flatnonzero(~is_over)
            rows, words = rows[left], select_words(words, left)
        return rows, words

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
            n_grams = group_n_grams(words, num)
            # More than can count as duplicate here, or for any larger number of words.
            covered = covered_characters(n_grams) / lengths_D[rows]
            suspects = np.flatnonzero(covered > share)
            characters = duplicate_characters(n_grams, suspects)
            guilty = suspects[characters / lengths_D[rows[suspects]] > share]
            _reject(reasons, rows[guilty], f"gopher_duplicate_{num}_grams")
            is_left = covered > min(shares.values())
            is_left[guilty] = False
            left = np.flatnonzero(is_left)
            rows, words = rows[left], select_words(words, left)


def count_duplicates(blocks: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """int64 [D] each: the blocks of each document that came before in it, and their characters."""
    num, characters = [], []
    for some in blocks:
        unique = set(some)
        num.append(len(some) - len(unique))
        same = len(some) == len(unique)
        characters.append(0 if same else sum(map(len, some)) - sum(map(len, unique)))
    return np.array(num, np.int64), np.array(characters, np.int64)


def _reject(reasons: Reasons, documents: np.ndarray, reason: str) -> None:
    is_rejected_D = np.zeros(len(reasons.first), bool)
    is_rejected_D[documents] = True
    reasons.add(is_rejected_D, reason)
