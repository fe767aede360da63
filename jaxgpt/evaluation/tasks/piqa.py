"""PIQA (Bisk et al. 2020, arXiv:1911.11641): which of two ways reaches a goal?"""

from typing import Any

from jaxgpt.config import configclass
from jaxgpt.evaluation.tasks.multiple_choice import MultipleChoice
from jaxgpt.evaluation.tasks.task import Item, choice_index, field, fill, text_field


@configclass
class Piqa(MultipleChoice):
    """Two ways to a goal; rows have `query`, `choices`, `gold`, or the fields of the data set."""

    ending: str = "\nAnswer:"
    """Text after the question, which takes the place of spaces at its end."""

    def read(self, row: Any) -> Item:
        if "goal" not in row:
            return super().read(row)
        choices = [text_field(row, name) for name in ("sol1", "sol2")]
        gold = choice_index(field(row, "label"), choices)
        return self.make_item(fill("Question: {goal}", row), choices, gold)
