"""FineWeb's own rules: lists, menus and other pages whose lines are no sentences.

Source: Penedo et al. 2024, "The FineWeb Datasets" (arXiv:2406.17557), section 3.6; counted as in
datatrove's FineWebQualityFilter.
"""

import dataclasses
from collections.abc import Sequence

from jaxgpt.config import configclass
from jaxgpt.corpus.filters.text_patterns import SENTENCE_ENDS, count_duplicates
from jaxgpt.corpus.text.batch import Judged, TextBatch


@configclass
class FineWebConfig:
    """FineWeb's rules; None switches a rule off. Blank lines are not counted."""

    min_punctuated_line_share: float | None = 0.12
    """Least share of lines that end with a sentence's final punctuation."""
    max_short_line_share: float | None = 0.67
    """Largest share of short lines."""
    short_line_characters: int = 30
    """Most characters of a short line."""
    max_duplicate_line_character_share: float | None = 0.01
    """Largest share of characters in repeated lines."""
    max_newlines_per_word: float | None = 0.3
    """Most line ends per word."""

    def build(self) -> "FineWeb":
        """Return the step that applies the rules."""
        return FineWeb(self)


@dataclasses.dataclass(frozen=True)
class FineWeb:
    """Rejects pages made of fragments.

    The rule on line ends per word does not apply to scripts without spaces between words.
    """

    config: FineWebConfig
    stage: str = "quality"

    def __call__(self, batch: TextBatch) -> Judged:
        """Judge every document; none is edited."""
        documents = zip(batch.texts, batch.lines, batch.is_spaced_D.tolist(), strict=True)
        return Judged(reasons=[self._judge(*document) for document in documents])

    def _judge(self, text: str, lines: Sequence[str], is_spaced: bool) -> str | None:
        config = self.config
        num_newlines = len(lines) - 1
        lines = [line for line in lines if line and not line.isspace()]
        num_lines = max(len(lines), 1)
        if (least := config.min_punctuated_line_share) is not None:
            num_punctuated = sum([line[-1] in SENTENCE_ENDS for line in lines])
            if num_punctuated / num_lines < least:
                return "fineweb_too_few_punctuated_lines"
        if (most := config.max_short_line_share) is not None:
            longest = config.short_line_characters
            if sum([len(line) <= longest for line in lines]) / num_lines > most:
                return "fineweb_too_many_short_lines"
        if (most := config.max_duplicate_line_character_share) is not None:
            _, num_characters = count_duplicates(lines)
            if num_characters / max(len(text) - num_newlines, 1) > most:
                return "fineweb_duplicate_line_characters"
        most = config.max_newlines_per_word if is_spaced else None
        if most is not None:
            # With more words than these it has enough, however many they are.
            enough = int(num_newlines / most) if most > 0 else -1
            if num_newlines / max(len(text.split(None, enough)), 1) > most:
                return "fineweb_too_many_newlines"
        return None
