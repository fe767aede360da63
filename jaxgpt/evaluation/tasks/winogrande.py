"""WinoGrande (Sakaguchi et al. 2019, arXiv:1907.10641): which name does a sentence speak of?"""

from typing import Any

from jaxgpt.config import configclass
from jaxgpt.evaluation.tasks.context_choice import ContextChoice
from jaxgpt.evaluation.tasks.task import Item, choice_index, field, text_field


@configclass
class WinoGrande(ContextChoice):
    """Name in a sentence; rows are llm-foundry's, or have the fields of the data set."""

    def read(self, row: Any) -> Item:
        if "sentence" not in row:
            return super().read(row)
        before, gap, after = text_field(row, "sentence").partition("_")
        if not gap:
            raise ValueError("the field 'sentence' has no gap, written _")
        options = [before + text_field(row, name) for name in ("option1", "option2")]
        gold = choice_index(field(row, "answer"), options, ("1", "2"))
        return self.make_item(options, after.strip(), gold)
