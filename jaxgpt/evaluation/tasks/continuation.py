"""`Continuation`: a context with one right continuation, which the model should find by itself."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.config import configclass
from jaxgpt.evaluation.scoring import Request, Score
from jaxgpt.evaluation.statistics import Metric, Perplexity
from jaxgpt.evaluation.tasks.task import Item, Measured, Task, text_field


@configclass
class Continuation(Task):
    """Context and its continuation: right if every token is the most probable one."""

    separator: str = " "
    """Text between the context, without spaces at its end, and the continuation."""

    @property
    def form(self) -> str:
        return "exact continuation"

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {"acc": Metric("none"), "perplexity": Perplexity("items")}

    def read(self, row: Any) -> Item:
        return self.make_item(text_field(row, "context"), text_field(row, "continuation"))

    def make_item(self, context: str, continuation: str) -> Item:
        """Return the item of a context and its continuation.

        Raises:
            ValueError: the continuation is empty.
        """
        if not continuation:
            raise ValueError("the continuation is empty")
        request = Request(context.rstrip(), self.separator + continuation)
        return Item((request,), "".join(request), continuation)

    def measure(self, item: Item, scores: Sequence[Score]) -> dict[str, Measured]:
        (score,) = scores
        return {
            "acc": Measured(float(score.is_greedy)),
            "perplexity": Measured(score.log_likelihood),
        }
