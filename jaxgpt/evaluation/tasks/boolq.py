"""BoolQ (Clark et al. 2019, arXiv:1905.10044): yes or no, about a passage."""

from typing import Any

from jaxgpt.config import configclass
from jaxgpt.evaluation.tasks.multiple_choice import MultipleChoice
from jaxgpt.evaluation.tasks.task import Item, choice_index, field, fill

_CHOICES = ("no", "yes")


@configclass
class BoolQ(MultipleChoice):
    """Yes or no; rows have `query`, `choices`, `gold`, or the fields of the data set."""

    ending: str = "\nAnswer:"
    """Text after the question, which takes the place of spaces at its end."""

    def read(self, row: Any) -> Item:
        if "passage" not in row:
            return super().read(row)
        # SuperGLUE calls it label, the data set itself answer.
        gold = choice_index(field(row, "label" if "label" in row else "answer"), _CHOICES)
        return self.make_item(fill("{passage}\nQuestion: {question}?", row), _CHOICES, gold)
