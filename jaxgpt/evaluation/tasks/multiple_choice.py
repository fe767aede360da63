"""`MultipleChoice`: choices after one question; the most probable one is the answer.

The choices are scored as texts (cloze form), not by letters, which small models cannot use.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.evaluation.scoring import Request, Score
from jaxgpt.evaluation.statistics import Metric
from jaxgpt.evaluation.tasks.task import (
    Item,
    Measured,
    Task,
    choice_index,
    field,
    fill,
    texts_field,
)

# A longer choice has a lower log-likelihood: three of the metrics divide by a length.
CHOICE_METRICS = {
    "acc": Metric("none"),
    "acc_norm": Metric("characters of the choice"),
    "acc_bytes": Metric("UTF-8 bytes of the choice"),
    "acc_tokens": Metric("tokens of the choice"),
}


@configclass
class MultipleChoice(Task):
    """Question with choices, of which one is right; the fields of a row are named here."""

    query: str = "{query}"
    """Question: a template with fields of the row in braces."""
    choices: str = "choices"
    """Field with the list of choices; a dot leads into an object."""
    gold: str = "gold"
    """Field with the right choice: its index from 0, its letter, or its text."""
    labels: str | None = None
    """Field with the names of the choices, one of which `gold` is; None: A, B, ..."""
    ending: str = ""
    """Text after the question, which takes the place of spaces at its end."""
    separator: str = " "
    """Text between the question and a choice."""

    @property
    def form(self) -> str:
        return "cloze"

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return CHOICE_METRICS

    def read(self, row: Any) -> Item:
        choices = texts_field(row, self.choices)
        labels = texts_field(row, self.labels) if self.labels else ()
        gold = choice_index(field(row, self.gold), choices, labels)
        return self.make_item(fill(self.query, row), choices, gold)

    def make_item(self, query: str, choices: Sequence[str], gold: int) -> Item:
        """Return the item of a question.

        Raises:
            ValueError: there are fewer than two choices, or one is empty.
        """
        check_choices(choices)
        if self.ending:
            query = query.rstrip() + self.ending
        requests = tuple(Request(query, self.separator + choice) for choice in choices)
        return Item(requests, "".join(requests[gold]), gold, tuple(choices))

    def measure(self, item: Item, scores: Sequence[Score]) -> dict[str, Measured]:
        return measure_choices(item.choices, item.gold, scores)

    def chance(self, item: Item) -> float | None:
        return 1 / len(item.choices)


def check_choices(choices: Sequence[str]) -> None:
    """Refuse choices that cannot be compared.

    Raises:
        ValueError: there are fewer than two, or one is empty.
    """
    if len(choices) < 2:
        raise ValueError(f"a question needs at least 2 choices, not {len(choices)}")
    if "" in choices:
        raise ValueError("a choice is empty")


def measure_choices(
    choices: Sequence[str], gold: int, scores: Sequence[Score]
) -> dict[str, Measured]:
    """Return whether the best choice is the right one, by each way to divide by lengths."""
    log_likelihoods = np.array([score.log_likelihood for score in scores])
    lengths = {
        "acc": np.ones(len(scores)),
        "acc_norm": [len(choice) for choice in choices],
        "acc_bytes": [len(choice.encode("utf-8")) for choice in choices],
        "acc_tokens": [score.num_tokens for score in scores],
    }
    return {
        name: Measured(float(np.argmax(log_likelihoods / np.asarray(length)) == gold))
        for name, length in lengths.items()
    }
