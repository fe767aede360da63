"""Rows of text with one label or several, for classifiers."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.finetuning.forms.form import (
    BadRowError,
    Example,
    Form,
    as_text,
    name_fields,
    parsed,
    text_field,
)
from jaxgpt.finetuning.forms.plain import plain


@configclass
class LabelledForm(Form):
    """Base of the forms of texts with labels, for a classifier; no token is predicted."""

    noun: ClassVar[str] = "labelled text"
    text: str = "text"
    """Field of the text."""
    label: str = "label"
    """Field of what is known of the text."""
    labels: tuple[str, ...] = ()
    """Labels that are allowed, in the order of their numbers; those found, sorted, if empty."""

    def __post_init__(self) -> None:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels = {self.labels}; one is named twice")

    @property
    def required(self) -> tuple[str, ...]:
        return (self.text, self.label)

    def read(self, values: Mapping[str, Any]) -> Example:
        example = plain(text_field(values, self.text), is_target=False)
        names = self._names(values)
        for name in names:
            self._check_listed(name)
        return Example(example.sequences, 0, example.prompt, names)

    def _names(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the labels of a row."""
        raise NotImplementedError

    def _check_listed(self, name: str) -> None:
        """Refuse a row with a label that is not among those that are allowed, if there are any."""
        if self.labels and name not in self.labels:
            listed = ", ".join(self.labels[:20])
            raise BadRowError("unknown_label", f"label {name!r} is not listed: {listed}")

    def _places(self, examples: Sequence[Example]) -> tuple[tuple[str, ...], dict[str, int]]:
        names = self.labels or sorted_labels(
            {name for each in examples for name in self.classes_of(each)}
        )
        return names, {name: number for number, name in enumerate(names)}


@configclass
class Labelled(LabelledForm):
    """A text and its label.

    The label is `label`: int32 [E], the place of the label among the names.
    """

    label_name: ClassVar[str | None] = "label"
    label: str = "label"
    """Field of the label: a text or a number."""

    def label_arrays(
        self, examples: Sequence[Example]
    ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        names, places = self._places(examples)
        numbers = np.array([places[name] for each in examples for name in each.label], np.int32)
        return {"label": numbers}, names

    def _names(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        value = values.get(self.label)
        if isinstance(value, list):
            raise BadRowError(
                "not_text", f"{self.label!r} is a list; allowed: one label, or form=MultiLabelled()"
            )
        return (_label(values, self.label),)


@configclass
class MultiLabelled(LabelledForm):
    """A text and the list of its labels, which may be empty.

    The label is `labels`: bool [E, number of names].
    """

    label_name: ClassVar[str | None] = "labels"
    label: str = "labels"
    """Field of the list of labels."""

    def label_arrays(
        self, examples: Sequence[Example]
    ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        names, places = self._places(examples)
        marks = np.zeros((len(examples), len(names)), bool)
        for row, example in enumerate(examples):
            marks[row, [places[name] for name in example.label]] = True
        return {"labels": marks}, names

    def _names(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        value = parsed(values.get(self.label))
        if isinstance(value, list):
            return tuple(as_text(each, f"a label in {self.label!r}") for each in value)
        return (_label(values, self.label),)


def sorted_labels(names: set[str]) -> tuple[str, ...]:
    """Return labels in order: by value if all are whole numbers, else by their characters."""
    if all(len(name) < 20 and name.removeprefix("-").isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _label(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if isinstance(value, bool):
        return str(value).lower()
    if (label := text_field(values, name)) == "":
        raise BadRowError("missing_field", f"{name!r} is empty ({name_fields(values)})")
    return label
