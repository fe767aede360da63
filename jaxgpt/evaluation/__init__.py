"""Evaluation of a model: loss on whole splits (perplexity.py), a baseline (ngram_baseline.py)."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.evaluation.harness import HarnessOptions
    from jaxgpt.evaluation.ngram_baseline import WittenBellModel
    from jaxgpt.evaluation.objective import FrozenModel, NextToken, Objective
    from jaxgpt.evaluation.perplexity import Perplexity, measure_perplexity
    from jaxgpt.evaluation.runner.example_options import ExampleOptions
    from jaxgpt.evaluation.runner.options import TaskOptions
    from jaxgpt.evaluation.tasks.arc import Arc
    from jaxgpt.evaluation.tasks.boolq import BoolQ
    from jaxgpt.evaluation.tasks.commonsense_qa import CommonsenseQa
    from jaxgpt.evaluation.tasks.context_choice import ContextChoice
    from jaxgpt.evaluation.tasks.continuation import Continuation
    from jaxgpt.evaluation.tasks.copa import Copa
    from jaxgpt.evaluation.tasks.hellaswag import HellaSwag
    from jaxgpt.evaluation.tasks.lambada import Lambada
    from jaxgpt.evaluation.tasks.multiple_choice import MultipleChoice
    from jaxgpt.evaluation.tasks.openbook_qa import OpenBookQa
    from jaxgpt.evaluation.tasks.piqa import Piqa
    from jaxgpt.evaluation.tasks.shots import Shots
    from jaxgpt.evaluation.tasks.task import Task
    from jaxgpt.evaluation.tasks.truthful_qa import TruthfulQa
    from jaxgpt.evaluation.tasks.wikitext import WikiText
    from jaxgpt.evaluation.tasks.winogrande import WinoGrande
    from jaxgpt.evaluation.text_tasks.gsm8k import Gsm8k
    from jaxgpt.evaluation.text_tasks.human_eval import HumanEval
    from jaxgpt.evaluation.text_tasks.text_pairs import Summaries, TextPairs, Translations
    from jaxgpt.evaluation.text_tasks.text_task import TextTask
else:
    __getattr__, __dir__ = lazy_imports(__name__)
