"""Tasks whose answers a model writes: numbers, programs, translations, summaries."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.evaluation.text_tasks.gsm8k import Gsm8k
    from jaxgpt.evaluation.text_tasks.human_eval import HumanEval
    from jaxgpt.evaluation.text_tasks.text_pairs import Summaries, TextPairs, Translations
    from jaxgpt.evaluation.text_tasks.text_task import TextTask
else:
    __getattr__, __dir__ = lazy_imports(__name__)
