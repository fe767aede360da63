"""HellaSwag (Zellers et al. 2019, arXiv:1905.07830): the ending of a scene."""

import re
from typing import Any

from jaxgpt.config import configclass
from jaxgpt.evaluation.tasks.multiple_choice import MultipleChoice
from jaxgpt.evaluation.tasks.task import Item, choice_index, field, text_field, texts_field


@configclass
class HellaSwag(MultipleChoice):
    """Ending of a scene; rows have `query`, `choices`, `gold`, or the fields of the data set."""

    def read(self, row: Any) -> Item:
        if "endings" not in row:
            return super().read(row)
        label, first = text_field(row, "activity_label"), text_field(row, "ctx_a")
        query = f"{label}: {first} {text_field(row, 'ctx_b').capitalize()}"
        choices = [_clean(ending) for ending in texts_field(row, "endings")]
        return self.make_item(_clean(query), choices, choice_index(field(row, "label"), choices))


def _clean(text: str) -> str:
    """Remove the marks in brackets that texts of WikiHow have kept."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")
