"""Rows of text with marked spans, for extraction: names, places, quantities.

    {"text": "Ada left London.", "spans": [{"start": 0, "end": 3, "label": "person"}]}

`start` and `end` count characters (code points) from 0, and `end` is not part of the span.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.finetuning.forms.form import (
    BadRowError,
    Example,
    Tokens,
    as_text,
    parsed,
    present,
    text_field,
)
from jaxgpt.finetuning.forms.labelled import LabelledForm
from jaxgpt.finetuning.forms.plain import plain
from jaxgpt.finetuning.forms.tags import OUTSIDE, UNMARKED, mark_spans

logger = logging.getLogger(__name__)

_PARTS = ("start", "end", "label")


class Span(NamedTuple):
    """Characters start .. end - 1 of a text, and their label."""

    start: int
    end: int
    label: str


@configclass
class Spans(LabelledForm):
    """A text and the spans in it that have a label; there may be none.

    Spans are objects with `start`, `end` and `label`, or lists of these three.
    """

    noun: ClassVar[str] = "marked text"
    label_name: ClassVar[str | None] = "spans"
    label: str = "spans"
    """Field of the list of spans."""
    twice: bool = False
    """Text given twice, of which the second copy is marked: its tokens have seen what follows them
    in the first. Rows are twice as long, and a text that does not fit twice is left out."""

    @property
    def can_be_cut(self) -> bool:
        """Return whether the text is there once: a copy alone would lack what twice promises."""
        return not self.twice

    def read(self, values: Mapping[str, Any]) -> Example:
        text = text_field(values, self.text)
        example = plain(text, is_target=False)
        found = parsed(present(values, self.label))
        if not isinstance(found, list):
            raise BadRowError(
                "not_spans", f"{self.label!r} is no list of objects with start, end and label"
            )
        spans = sorted(self._span(each, place, text) for place, each in enumerate(found, 1))
        for one, two in itertools.pairwise(spans):
            if two.start < one.end:
                raise BadRowError(
                    "overlapping_spans",
                    f"the spans {_show(one)} and {_show(two)} overlap; a character may have one "
                    "label",
                )
        parts = example.sequences[0] * (2 if self.twice else 1)
        return Example((parts,), len(parts) - 1, example.prompt, tuple(spans))

    def classes_of(self, example: Example) -> Sequence[str]:
        return [span.label for span in example.label]

    def label_arrays(
        self, examples: Sequence[Example]
    ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Return the names of the classes alone: it is tokens that have labels."""
        return {}, self._places(examples)[0]

    def token_labels(
        self, examples: Sequence[Example], tokens: Tokens, names: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        """Return the tags of all tokens as `spans`, int32 [N]; see tags.py."""
        places = {name: number for number, name in enumerate(names)}
        tags_N, num_lost = np.full(len(tokens.bytes_N), UNMARKED, np.int32), 0
        for example, (start, stop) in zip(
            examples, itertools.pairwise(tokens.offsets.tolist()), strict=True
        ):
            text = example.sequences[0][-1].text
            spans = [
                (_num_bytes(text[: span.start]), _num_bytes(text[: span.end]), places[span.label])
                for span in example.label
            ]
            # Control tokens stand around each copy of the text; the last copy is marked.
            before, after = np.flatnonzero(tokens.bytes_N[start:stop] == 0)[-2:].tolist()
            marked = slice(start + before + 1, start + after)
            tags_N[marked] = OUTSIDE
            num_lost += mark_spans(tags_N[marked], tokens.bytes_N[marked], spans)
        if num_lost:
            logger.warning(
                "%d spans are not learned: they lie behind the cut of a long text, or share all "
                "their tokens with the span before them",
                num_lost,
            )
        return {"spans": tags_N}

    def _span(self, value: Any, place: int, text: str) -> Span:
        """Return one span of a row; `place` counts from 1."""
        if isinstance(value, Mapping):
            value = [value.get(name) for name in _PARTS]
        if not isinstance(value, list) or len(value) != len(_PARTS):
            raise BadRowError("not_spans", f"span {place} has not start, end and label")
        start, end, label = value
        if not all(type(each) is int for each in (start, end)):
            raise BadRowError(
                "not_spans", f"span {place} is {start!r} to {end!r}; allowed: whole numbers"
            )
        if not 0 <= start < end <= len(text):
            raise BadRowError(
                "bad_span",
                f"span {place} is {start} to {end} of a text of {len(text)} characters; allowed: "
                f"0 <= start < end <= {len(text)}",
            )
        name = "" if label is None else as_text(label, f"the label of span {place}")
        if not name:
            raise BadRowError("missing_field", f"span {place} has no label")
        self._check_listed(name)
        return Span(start, end, name)


def _show(span: Span) -> str:
    return f"{span.start} to {span.end} ({span.label})"


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
