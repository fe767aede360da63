"""`Form`: how a row becomes an example; a form is chosen in a config and lies in a file of its own.

A row that cannot become an example is bad: `BadRowError` says why, in one line.

Axes: E examples, S sequences, N ids of all sequences.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.corpus.documents.document import shorten
from jaxgpt.corpus.readers.rows import Row

_MAX_CHARACTERS = 300
_SURROGATE = re.compile("[\ud800-\udfff]")


class Part(NamedTuple):
    """A message, or a plain text, whose role is None. Content and end of a target are predicted."""

    role: str | None
    text: str
    is_target: bool


@dataclass(frozen=True, slots=True)
class Example:
    """An example before it is cut into tokens.

    Attributes:
        sequences: parts of each sequence: one sequence, or two of a pair (preferred, rejected).
        num_prompt_parts: parts in front of the answer, equal in all sequences.
        prompt: text that decides on which side of held-out the example stands.
        label: what is known of the example and is no token.
    """

    sequences: tuple[tuple[Part, ...], ...]
    num_prompt_parts: int
    prompt: str
    label: Any = None


class Tokens(NamedTuple):
    """Ids of sequences, with the bytes of text that they stand for.

    Attributes:
        offsets: int64 [S + 1], where sequences begin and end.
        bytes_N: int32, bytes of text of each id; 0 for control ids.
    """

    offsets: np.ndarray
    bytes_N: np.ndarray


class BadRowError(Exception):
    """A row that is no example.

    Attributes:
        reason: a name under which it is counted, such as `empty_answer`.
        detail: what is wrong, for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = shorten(" ".join(detail.split()), _MAX_CHARACTERS)
        super().__init__(self.detail)


@configclass
class Form:
    """Base of the forms of rows."""

    noun: ClassVar[str] = "example"
    group_size: ClassVar[int] = 1
    # Name of the array that `label_arrays` gives; forms of one dataset have the same.
    label_name: ClassVar[str | None] = None

    @property
    def can_be_cut(self) -> bool:
        """Return whether an example keeps its sense without a part of its prompt or its end."""
        return True

    @property
    def required(self) -> tuple[str, ...]:
        """Return the fields that every row must have."""
        return ()

    @property
    def optional(self) -> tuple[str, ...]:
        """Return the fields that are read where a row has them."""
        return ()

    def choose(self, name: str, rows: Sequence[Row]) -> "Form":
        """Return the form of a file, given its first rows; itself, unless it looks at them."""
        return self

    def read(self, values: Mapping[str, Any]) -> Example:
        """Return the example that a row is.

        Raises:
            BadRowError: it is none.
        """
        raise NotImplementedError

    def label_arrays(
        self, examples: Sequence[Example]
    ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Return arrays [E, ...] of the labels by name, and the names of classes, if any."""
        return {}, ()

    def token_labels(
        self, examples: Sequence[Example], tokens: Tokens, names: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        """Return arrays [N, ...] of what is known of single tokens, by name.

        Args:
            examples: in the order of their sequences in `tokens`.
            tokens: ids of all sequences.
            names: of the classes, as `label_arrays` gave them.
        """
        return {}

    def classes_of(self, example: Example) -> Sequence[str]:
        """Return the class of each labelled thing in an example, where the form has classes."""
        return example.label or ()

    def describe(self) -> str:
        """Return the class and its fields, such as `Instruction(instruction, output[, input])`."""
        optional = "".join(f"[, {name}]" for name in self.optional)
        return f"{type(self).__name__}({', '.join(self.required)}{optional})"


def text_field(values: Mapping[str, Any], name: str) -> str:
    """Return the text of a field; numbers are written out.

    Raises:
        BadRowError: there is none, or it is no text.
    """
    return as_text(present(values, name), repr(name))


def present(values: Mapping[str, Any], name: str) -> Any:
    """Return the value of a field, which may be a field of an object: `translation.en`.

    Raises:
        BadRowError: there is none, or it is null.
    """
    if (value := values.get(name)) is None and "." in name:
        value = values
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        raise BadRowError("missing_field", f"no {name!r} among its fields ({name_fields(values)})")
    return value


def as_text(value: Any, what: str) -> str:
    """Return a value as text; `what` names it in errors.

    Raises:
        BadRowError: it is no text, or has a byte or half of a character that is none.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise BadRowError("not_text", f"{what} is {_kind(value)}; allowed: text")
    if not value.isascii() and (found := _SURROGATE.search(value)):
        raise BadRowError(
            "not_unicode", f"{what} is not valid UTF-8 at character {found.start()}; convert it"
        )
    return value


def parsed(value: Any) -> Any:
    """Return a value, read as JSON if it is a text that begins as a list, as in CSV files."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def name_fields(values: Mapping[str, Any]) -> str:
    """Return the names of some fields, shortened where they are many."""
    names = [shorten(str(name), 40) for name in values]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return names.get(type(value), type(value).__name__)
