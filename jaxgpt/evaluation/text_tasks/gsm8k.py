"""GSM8K (Cobbe et al. 2021, arXiv:2110.14168): school mathematics; the last number counts."""

import decimal
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.config import configclass
from jaxgpt.evaluation.scoring import Request
from jaxgpt.evaluation.statistics import Metric
from jaxgpt.evaluation.tasks.task import Item, Measured, fill, text_field
from jaxgpt.evaluation.text_tasks.text_task import TextTask

_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


@configclass
class Gsm8k(TextTask):
    """School mathematics; rows have `question` and `answer`, which ends with #### and a number."""

    stop: tuple[str, ...] = ("Question:",)
    """Strings that end an answer."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {"exact_match": Metric("last number of the text")}

    def read(self, row: Any) -> Item:
        context = fill("Question: {question}\nAnswer:", row)
        answer = text_field(row, "answer")
        gold = last_number(answer)
        if gold is None:
            raise ValueError("the field 'answer' has no number")
        return Item((Request(context, ""),), f"{context} {answer}", str(gold))

    def measure(self, item: Item, scores: Sequence[Any]) -> dict[str, Measured]:
        found = last_number(scores[0].text)
        return {"exact_match": Measured(float(found == decimal.Decimal(item.gold)))}


def last_number(text: str) -> decimal.Decimal | None:
    """Return the last number of a text, commas between its digits left out; None without one."""
    numbers = _NUMBER.findall(text)
    return decimal.Decimal(numbers[-1].replace(",", "")) if numbers else None
