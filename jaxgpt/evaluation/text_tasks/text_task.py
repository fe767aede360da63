"""`TextTask`: the model writes the answer, greedily."""

from collections.abc import Sequence
from typing import Any

from jaxgpt.config import configclass
from jaxgpt.errors import UsageError
from jaxgpt.evaluation.generation import continue_greedily
from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.evaluation.scoring import Scorer
from jaxgpt.evaluation.tasks.task import Answer, Item, Task


@configclass
class TextTask(Task):
    """Base of the tasks whose answers are texts; an item has one request, its context."""

    max_new_tokens: int = 256
    """Most tokens of an answer."""
    stop: tuple[str, ...] = ("\n\n",)
    """Strings that end an answer."""

    @property
    def form(self) -> str:
        return f"greedy text of at most {self.max_new_tokens} tokens"

    def prompt_form(self, loaded: LoadedModel) -> str:
        return loaded.prompt_form

    def score(
        self, scorer: Scorer, items: Sequence[Item], prefixes: Sequence[str]
    ) -> list[list[Answer]]:
        if not scorer.add_bos:
            raise UsageError("texts are written after BOS; leave out --add-bos False")
        prompts = [
            scorer.loaded.encode_prompt(prefix + item.requests[0].context)
            for item, prefix in zip(items, prefixes, strict=True)
        ]
        written = continue_greedily(
            scorer.loaded, prompts, self.max_new_tokens, self.stop, silent=scorer.silent
        )
        return [[Answer(each.text)] for each in written]

    def record(self, results: Sequence[Any]) -> dict[str, Any]:
        return {"texts": [answer.text for answer in results]}
