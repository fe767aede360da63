"""Evaluation tasks over the user's local files, one file for each."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
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
    from jaxgpt.evaluation.tasks.task import Task
    from jaxgpt.evaluation.tasks.truthful_qa import TruthfulQa
    from jaxgpt.evaluation.tasks.wikitext import WikiText
    from jaxgpt.evaluation.tasks.winogrande import WinoGrande
else:
    __getattr__, __dir__ = lazy_imports(__name__)
