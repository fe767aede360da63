"""LAMBADA (Paperno et al. 2016, arXiv:1606.06031): the last word of a passage."""

from typing import Any

from jaxgpt.config import configclass
from jaxgpt.evaluation.tasks.continuation import Continuation
from jaxgpt.evaluation.tasks.task import Item, text_field


@configclass
class Lambada(Continuation):
    """Last word of a passage; rows have `context` and `continuation`, or `text`."""

    def read(self, row: Any) -> Item:
        if "text" not in row:
            return super().read(row)
        context, _, word = text_field(row, "text").rpartition(" ")
        return self.make_item(context, word)
