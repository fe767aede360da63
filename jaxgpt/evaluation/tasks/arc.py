"""ARC (Clark et al. 2018, arXiv:1803.05457): science questions of schools, easy and hard."""

from typing import Any

from jaxgpt.config import configclass
from jaxgpt.evaluation.tasks.multiple_choice import MultipleChoice
from jaxgpt.evaluation.tasks.task import Item, choice_index, field, fill, texts_field


@configclass
class Arc(MultipleChoice):
    """Science question; rows have `query`, `choices`, `gold`, or the fields of the data set."""

    ending: str = "\nAnswer:"
    """Text after the question, which takes the place of spaces at its end."""

    def read(self, row: Any) -> Item:
        if "answerKey" not in row:
            return super().read(row)
        choices, labels = (texts_field(row, f"choices.{name}") for name in ("text", "label"))
        gold = choice_index(field(row, "answerKey"), choices, labels)
        return self.make_item(fill("Question: {question}", row), choices, gold)
