"""A batch of documents on their way through filters and edits, and what a step says of it."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Protocol

from jaxgpt.corpus.words import Words, space_separated_words


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
        """Words between white space."""
        return space_separated_words(self.texts)

    @functools.cached_property
    def lines(self) -> list[list[str]]:
        """The lines of each text, without their ends."""
        return [text.split("\n") for text in self.texts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """What a step says of a batch.

    Attributes:
        reasons: for each document why it must go, or None.
        texts: the documents' texts after the step; None where it changed nothing.
        counts: what was changed, by kind: lines removed by a rule, addresses replaced.
    """

    reasons: Sequence[str | None]
    texts: Sequence[str] | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Step(Protocol):
    """A filter or an edit of documents, a pure function of each of them alone.

    Attributes:
        stage: the name under which documents that it rejects are listed.
    """

    stage: str

    def __call__(self, batch: TextBatch) -> Judged:
        """Judge, and perhaps edit, every document."""
        ...
