"""C4's rules: take out lines that are not text, and drop documents with too little left.

Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer" (arXiv:1910.10683), section 2.2; counted as in FineWeb (datatrove's C4QualityFilter).
"""

import collections
import dataclasses
import re
from collections.abc import Sequence

from jaxgpt.config import configclass
from jaxgpt.corpus.text.batch import Judged, TextBatch

_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_TERMINAL = (".", "?", "!", '"', "'")
_ELLIPSIS = "..."
# Where a sentence ends within a line: a mark, closing quotes and brackets, space, something more.
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*\s+(?=\S)|[。！？](?=.)")
_LOREM_IPSUM = "lorem ipsum"


@configclass
class C4Config:
    """C4's rules; None or False switches a rule off."""

    max_word_length: int | None = 1000
    """Longest word, in characters; a line with a longer one is taken out."""
    remove_citations: bool = True
    """Removal of [1], [edit] and [citation needed] from lines."""
    require_terminal_punctuation: bool = False
    """Removal of lines that do not end in . ? ! or a quotation mark, or end in an ellipsis. C4 has
    this rule, FineWeb does not, because it costs more text than any other rule."""
    min_words_per_line: int | None = 3
    """Fewest words per line; a shorter line is taken out."""
    forbid_lorem_ipsum: bool = True
    """Rejection of documents with "lorem ipsum" in a line."""
    remove_javascript_lines: bool = True
    """Removal of lines with the word javascript."""
    forbid_curly_bracket: bool = True
    """Rejection of documents with { in a line, which drops nearly all program code."""
    policy_phrases: tuple[str, ...] = (
        "terms of use",
        "privacy policy",
        "cookie policy",
        "uses cookies",
        "use of cookies",
        "use cookies",
    )
    """Phrases, in lower case, whose lines are taken out; () switches the rule off."""
    min_sentences: int | None = 5
    """Fewest sentences in the lines that are left; a document with fewer is rejected."""

    def build(self) -> "C4":
        """Return the step that applies the rules."""
        return C4(self)


@dataclasses.dataclass(frozen=True)
class C4:
    """Takes out lines and white space around them, then judges the rest.

    In scripts without spaces between words, words and sentences are not counted.
    """

    config: C4Config
    stage: str = "quality"

    def __call__(self, batch: TextBatch) -> Judged:
        """Edit and judge every document."""
        counts: collections.Counter[str] = collections.Counter()
        reasons: list[str | None] = []
        texts: list[str] = []
        for text, lines, is_spaced in zip(
            batch.texts, batch.lines, batch.is_spaced_D.tolist(), strict=True
        ):
            removed: collections.Counter[str] = collections.Counter()
            kept, reason = self._keep_lines(text, lines, is_spaced, removed)
            if reason is None and is_spaced and self._has_few_sentences(kept):
                reason = "c4_too_few_sentences"
            if reason is None:
                counts.update(+removed)
            reasons.append(reason)
            texts.append("\n".join(kept).strip() if reason is None else text)
        return Judged(reasons=reasons, texts=texts, counts=counts)

    def _keep_lines(
        self, text: str, lines: Sequence[str], is_spaced: bool, removed: collections.Counter[str]
    ) -> tuple[list[str], str | None]:
        """Return the lines that stay, and the reason if one rejects the document; count `removed`
        ones.
        """
        config = self.config
        is_suspicious = self._is_suspicious(text)
        has_citations = config.remove_citations and "[" in text
        min_words = config.min_words_per_line if is_spaced else None
        if not (is_suspicious or has_citations or config.require_terminal_punctuation):
            plain = self._keep_plain_lines(lines, min_words, removed)
            if plain is not None:
                return plain, None
        kept = []
        for line in map(str.strip, lines):
            is_short = min_words is not None and len(line.split(None, min_words)) < min_words
            if self._has_long_word(line):
                removed["lines_with_long_word"] += 1
                continue
            if has_citations:
                line, num = _CITATION.subn("", line)
                removed["citations"] += num
            if config.require_terminal_punctuation and not _is_terminated(line):
                removed["lines_without_terminal_punctuation"] += 1
                continue
            if is_short:
                removed["lines_with_few_words"] += 1
                continue
            if is_suspicious:
                verdict = self._judge_line(line)
                if verdict is not None and verdict.startswith("c4_"):
                    return [], verdict
                if verdict is not None:
                    removed[verdict] += 1
                    continue
            kept.append(line)
        return kept, None

    def _keep_plain_lines(
        self, lines: Sequence[str], min_words: int | None, removed: collections.Counter[str]
    ) -> list[str] | None:
        """Do the same, faster, where only the number of words counts; None if it does not."""
        if any(map(self._has_long_word, lines)):
            return None
        plain = list(map(str.strip, lines))
        if min_words is None:
            return plain
        kept = [line for line in plain if len(line.split(None, min_words)) >= min_words]
        removed["lines_with_few_words"] += len(plain) - len(kept)
        return kept

    def _has_long_word(self, line: str) -> bool:
        longest = self.config.max_word_length
        if longest is None or len(line) <= longest:
            return False
        return any(len(word) > longest for word in line.split())

    def _is_suspicious(self, text: str) -> bool:
        """Return whether any line can break a rule on its wording."""
        if self.config.forbid_curly_bracket and "{" in text:
            return True
        lower = text.lower()
        words = [_LOREM_IPSUM, "javascript", *self.config.policy_phrases]
        return any(word in lower for word in words)

    def _judge_line(self, line: str) -> str | None:
        """Return a reason (c4_...) to reject the document, the count of a removed line, or None."""
        config, lower = self.config, line.lower()
        if config.forbid_lorem_ipsum and _LOREM_IPSUM in lower:
            return "c4_lorem_ipsum"
        if config.remove_javascript_lines and "javascript" in lower:
            return "lines_with_javascript"
        if config.forbid_curly_bracket and "{" in line:
            return "c4_curly_bracket"
        if any(phrase in lower for phrase in config.policy_phrases):
            return "lines_with_policy"
        return None

    def _has_few_sentences(self, lines: Sequence[str]) -> bool:
        least = self.config.min_sentences
        if least is None or len(lines) >= least:
            return False
        return sum(1 + len(_SENTENCE_END.findall(line)) for line in lines) < least


def _is_terminated(line: str) -> bool:
    return line.endswith(_TERMINAL) and not line.endswith(_ELLIPSIS)
