"""Texts against references: translations by BLEU and chrF, summaries by ROUGE."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.config import configclass
from jaxgpt.evaluation.scoring import Request
from jaxgpt.evaluation.statistics import Metric
from jaxgpt.evaluation.tasks.task import Item, Measured, fill, text_field
from jaxgpt.evaluation.text_metrics import ROUGE, rouge_scores, translation_scores
from jaxgpt.evaluation.text_tasks.text_task import TextTask


@configclass
class TextPairs(TextTask):
    """Prompt and the text that should follow; the fields of a row are named here."""

    prompt: str = "{prompt}"
    """Text to continue: a template with fields of the row in braces."""
    reference: str = "completion"
    """Field with the text that should follow."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {}

    def read(self, row: Any) -> Item:
        prompt, reference = fill(self.prompt, row), text_field(row, self.reference).strip()
        if not reference:
            raise ValueError(f"the field {self.reference!r} is empty")
        return Item((Request(prompt, ""),), f"{prompt} {reference}", reference)

    def measure(self, item: Item, scores: Sequence[Any]) -> dict[str, Measured]:
        return {}


@configclass
class Translations(TextPairs):
    """Translations, scored by BLEU and chrF over all items."""

    def measure_all(self, items: Sequence[Item], results: Sequence[Any]) -> dict[str, Any]:
        texts = [answer.text.strip() for (answer,) in results]
        return translation_scores(texts, [item.gold for item in items])


@configclass
class Summaries(TextPairs):
    """Summaries, scored by ROUGE for each item."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {name: Metric("none") for name in ROUGE}

    def measure(self, item: Item, scores: Sequence[Any]) -> dict[str, Measured]:
        found = rouge_scores(scores[0].text.strip(), item.gold)
        return {name: Measured(value) for name, value in found.items()}
