"""OpenBookQA (Mihaylov et al. 2018, arXiv:1809.02789): the end of a sentence about science."""

from typing import Any

from jaxgpt.config import configclass
from jaxgpt.evaluation.tasks.multiple_choice import MultipleChoice
from jaxgpt.evaluation.tasks.task import Item, choice_index, field, text_field, texts_field


@configclass
class OpenBookQa(MultipleChoice):
    """End of a sentence; rows have `query`, `choices`, `gold`, or the fields of the data set."""

    def read(self, row: Any) -> Item:
        if "question_stem" not in row:
            return super().read(row)
        choices, labels = (texts_field(row, f"choices.{name}") for name in ("text", "label"))
        gold = choice_index(field(row, "answerKey"), choices, labels)
        return self.make_item(text_field(row, "question_stem"), choices, gold)
