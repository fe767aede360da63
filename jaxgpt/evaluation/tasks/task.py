"""`Task`: from the rows of a file to items, from the scores of an item to values of metrics."""

import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxgpt.config import configclass
from jaxgpt.corpus.filters.evaluation_texts import read_items
from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.evaluation.scoring import Request, Score, Scorer
from jaxgpt.evaluation.statistics import Metric


class Item(NamedTuple):
    """One question of a task.

    Attributes:
        requests: texts to score: one for each choice, or the only continuation.
        example: the question with its right answer, as other questions show it before themselves.
        gold: the right answer: the index of a choice, or what else the task compares with.
        choices: texts of the choices, without the space before them.
    """

    requests: tuple[Request, ...]
    example: str
    gold: Any
    choices: tuple[str, ...] = ()


class Answer(NamedTuple):
    """Text that a model wrote as the answer to an item.

    Attributes:
        text: the text, without the string that ended it.
        num_cut: number of tokens of the question that were dropped; none.
    """

    text: str
    num_cut: int = 0


# Results of the requests of an item.
Results = Sequence[Score] | Sequence[Answer]


class Measured(NamedTuple):
    """Value of a metric for one item, and what it is divided by in the mean."""

    value: float
    weight: float = 1.0


@configclass
class Task:
    """Base of the tasks."""

    shot_separator: str = "\n\n"
    """Text after each example that is shown before a question."""

    @property
    def form(self) -> str:
        """Return the way in which the model is asked."""
        raise NotImplementedError(f"{type(self).__name__} has no form")

    def prompt_form(self, loaded: LoadedModel) -> str:
        """Return the form in which a model gets a question; each model may have its own."""
        return "plain text"

    @property
    def takes_examples(self) -> bool:
        """Return whether a question may have others before it."""
        return True

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Return the metrics by name."""
        raise NotImplementedError(f"{type(self).__name__} has no metrics")

    def read_file(self, path: str | Path) -> Iterator[tuple[int, Any]]:
        """Yield the place and the value of each row of a file; see `read_items`."""
        yield from read_items(path)

    def read(self, row: Any) -> Item:
        """Return the item of a row.

        Raises:
            ValueError: the row lacks a field, or has a value that is not allowed.
        """
        raise NotImplementedError(f"{type(self).__name__} has no read")

    def score(
        self, scorer: Scorer, items: Sequence[Item], prefixes: Sequence[str]
    ) -> Sequence[Results]:
        """Return the results of the requests of each item.

        Args:
            scorer: scores text with a model.
            items: the questions.
            prefixes: text before the contexts of each item, its examples.
        """
        requests = [
            Request(prefix + request.context, request.continuation)
            for item, prefix in zip(items, prefixes, strict=True)
            for request in item.requests
        ]
        scores = iter(scorer.score(requests))
        return [[next(scores) for _ in item.requests] for item in items]

    def measure(self, item: Item, scores: Sequence[Any]) -> dict[str, Measured]:
        """Return the values of the metrics for an item, out of its results."""
        raise NotImplementedError(f"{type(self).__name__} has no measure")

    def measure_all(self, items: Sequence[Item], results: Sequence[Any]) -> dict[str, Any]:
        """Return figures that are no mean over items, as JSON has them; none for most tasks."""
        return {}

    def record(self, results: Sequence[Any]) -> dict[str, Any]:
        """Return what is kept of the results of an item."""
        return {
            "log_likelihoods": [score.log_likelihood for score in results],
            "num_tokens": [score.num_tokens for score in results],
            "is_greedy": [score.is_greedy for score in results],
            "num_cut": [score.num_cut for score in results],
        }

    def chance(self, item: Item) -> float | None:
        """Return the accuracy of a guess; None where there is nothing to guess from."""
        return None


def fill(template: str, row: Mapping[str, Any]) -> str:
    """Put fields of a row into a template: `fill("{goal}\\nAnswer:", row)`.

    Raises:
        ValueError: a field is missing, or is no text.
    """
    parts = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            parts.append(text_field(row, name))
    return "".join(parts)


def field(row: Any, name: str) -> Any:
    """Return the value of a field; a dot leads into an object: `choices.text`.

    Raises:
        ValueError: the field is missing; those that there are are named.
    """
    value = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = ", ".join(map(str, value)) if isinstance(value, Mapping) else "none"
            raise ValueError(f"it has no field {name!r}; there: {known}")
        value = value[part]
    return value


def text_field(row: Any, name: str) -> str:
    """Return a field that must be a text.

    Raises:
        ValueError: it is missing, or is no text.
    """
    value = field(row, name)
    if not isinstance(value, str):
        raise ValueError(f"the field {name!r} must be a text, not {_short(value)}")
    return value


def texts_field(row: Any, name: str) -> tuple[str, ...]:
    """Return a field that must be a list of texts.

    Raises:
        ValueError: it is missing, or is no list of texts.
    """
    value = field(row, name)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"the field {name!r} must be a list of texts, not {_short(value)}")
    return tuple(value)


def choice_index(value: Any, choices: Sequence[str], labels: Sequence[str] = ()) -> int:
    """Return the index of the right choice: given as an index, a label, or the text itself.

    Args:
        value: what stands in the row.
        choices: texts of the choices.
        labels: names of the choices, where a row has them; else A, B, ... name them.

    Raises:
        ValueError: it names no choice.
    """
    labels = labels or string.ascii_uppercase[: len(choices)]
    if isinstance(value, str):
        value = value.strip()
        if value in labels:
            return list(labels).index(value)
        if value in choices:
            return list(choices).index(value)
        value = int(value) if value.isdecimal() else value
    if isinstance(value, int) and 0 <= value < len(choices):
        return int(value)
    raise ValueError(
        f"the right choice is {_short(value)}; allowed: 0 to {len(choices) - 1}, one of "
        f"{', '.join(labels)}, or the text of a choice"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
