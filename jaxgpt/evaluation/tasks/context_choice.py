"""`ContextChoice`: one text after several contexts; the context that makes it most probable wins.

Partial scoring of Winograd schemas (Trinh and Le 2018, arXiv:1806.02847): the two beginnings of a
sentence differ in a name, and only the rest of the sentence is scored.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.config import configclass
from jaxgpt.evaluation.scoring import Request, Score
from jaxgpt.evaluation.statistics import Metric
from jaxgpt.evaluation.tasks.multiple_choice import (
    CHOICE_METRICS,
    check_choices,
    measure_choices,
)
from jaxgpt.evaluation.tasks.task import (
    Item,
    Measured,
    Task,
    choice_index,
    field,
    text_field,
    texts_field,
)


@configclass
class ContextChoice(Task):
    """Text with several beginnings, of which one is right; rows as llm-foundry has them."""

    separator: str = " "
    """Text between a beginning and the rest."""

    @property
    def form(self) -> str:
        return "cloze, the rest of the text scored after each beginning"

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {"acc": CHOICE_METRICS["acc"]}

    def read(self, row: Any) -> Item:
        options = texts_field(row, "context_options")
        gold = choice_index(field(row, "gold"), options)
        return self.make_item(options, text_field(row, "continuation"), gold)

    def make_item(self, options: Sequence[str], continuation: str, gold: int) -> Item:
        """Return the item of a text with several beginnings.

        Raises:
            ValueError: there are fewer than two beginnings, or a text is empty.
        """
        check_choices(options)
        if not continuation:
            raise ValueError("the continuation is empty")
        requests = tuple(Request(option, self.separator + continuation) for option in options)
        return Item(requests, "".join(requests[gold]), gold, tuple(options))

    def measure(self, item: Item, scores: Sequence[Score]) -> dict[str, Measured]:
        return {"acc": measure_choices(item.choices, item.gold, scores)["acc"]}

    def chance(self, item: Item) -> float | None:
        return 1 / len(item.choices)
