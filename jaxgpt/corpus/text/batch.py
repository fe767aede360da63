"""Batch of documents on their way through filters and edits, and a step's result for it."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from jaxgpt.corpus.text.scripts import is_spaced, is_spaced_text, letters_by_script
from jaxgpt.corpus.text.words import Words, space_separated_words


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextBatch:
    """Documents that are judged together, with what several rules need computed once.

    Attributes:
        texts: their texts.
        urls: where each was published; "" where its record does not say.
    """

    texts: Sequence[str]
    urls: Sequence[str]

    @functools.cached_property
    def words(self) -> Words:
        """Return the words between white space."""
        return space_separated_words(self.texts)

    @functools.cached_property
    def lines(self) -> list[list[str]]:
        """Return the lines of each text, without their ends."""
        return [text.split("\n") for text in self.texts]

    @functools.cached_property
    def letters_DS(self) -> np.ndarray:
        """Count the letters of each text in each script of SCRIPTS: int64 [documents, scripts]."""
        return letters_by_script(self.texts)

    @functools.cached_property
    def is_spaced_D(self) -> np.ndarray:
        """Return whether texts put spaces between words, which can then be counted: bool
        [documents]. Chinese, Japanese, Thai and some others do not."""
        if "letters_DS" in vars(self):
            return is_spaced(self.letters_DS)
        return is_spaced_text(self.texts)

    def select(self, rows: Sequence[int]) -> "TextBatch":
        """Return the batch of these documents, with all values that are already computed."""
        chosen = TextBatch(
            texts=[self.texts[row] for row in rows], urls=[self.urls[row] for row in rows]
        )
        known = vars(self)
        if "words" in known:
            vars(chosen)["words"] = select_words(self.words, np.asarray(rows, np.int64))
        if "lines" in known:
            vars(chosen)["lines"] = [self.lines[row] for row in rows]
        for name in ("letters_DS", "is_spaced_D"):
            if name in known:
                vars(chosen)[name] = known[name][list(rows)]
        return chosen


def select_words(words: Words, rows: np.ndarray) -> Words:
    """Return the words of some documents; `rows` are their numbers, int64."""
    counts = words.counts_D[rows]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    chosen = np.arange(offsets[-1]) + np.repeat(words.offsets_D1[rows] - offsets[:-1], counts)
    return Words(words.hashes_W[chosen], words.lengths_W[chosen], offsets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """Result of a step for a batch.

    Attributes:
        reasons: for each document the reason to drop it, or None.
        texts: the documents' texts after the step; None where it changed nothing.
        counts: changes by kind: lines removed by a rule, addresses replaced.
    """

    reasons: Sequence[str | None]
    texts: Sequence[str] | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Step(Protocol):
    """A filter or an edit of documents, a pure function of each of them alone."""

    @property
    def stage(self) -> str:
        """Return the stage name under which rejected documents are listed."""
        ...

    def __call__(self, batch: TextBatch) -> Judged:
        """Judge, and perhaps edit, every document."""
        ...


class Reasons:
    """Collects reasons; a document keeps the first one it gets.

    Attributes:
        first: for each document its reason, or None.
    """

    def __init__(self, first: Sequence[str | None]) -> None:
        self.first = list(first)

    def add(self, documents: np.ndarray, reason: str) -> None:
        """Give `reason` to these documents, by number."""
        for document in documents.tolist():
            if self.first[document] is None:
                self.first[document] = reason

    @property
    def is_open_D(self) -> np.ndarray:
        """Return the documents that have no reason yet: bool [D]."""
        return np.array([reason is None for reason in self.first], bool)
