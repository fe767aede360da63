"""The task of a name such as `hellaswag` or `arc_easy_50`, or else of the fields of a file."""

import re
from collections.abc import Mapping
from pathlib import Path

from jaxgpt.corpus.filters.evaluation_texts import read_items
from jaxgpt.errors import UsageError, did_you_mean
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
from jaxgpt.evaluation.text_tasks.gsm8k import Gsm8k
from jaxgpt.evaluation.text_tasks.human_eval import HumanEval
from jaxgpt.evaluation.text_tasks.text_pairs import Summaries, Translations

KNOWN_TASKS: Mapping[str, Task] = {
    "arc": Arc(),
    "boolq": BoolQ(),
    "commonsense_qa": CommonsenseQa(),
    "commonsenseqa": CommonsenseQa(),
    "copa": Copa(),
    "gsm8k": Gsm8k(),
    "hellaswag": HellaSwag(),
    "humaneval": HumanEval(),
    "lambada": Lambada(),
    "openbook_qa": OpenBookQa(),
    "openbookqa": OpenBookQa(),
    "piqa": Piqa(),
    "summaries": Summaries(),
    "translations": Translations(),
    "truthfulqa": TruthfulQa(),
    "wikitext": WikiText(),
    "winogrande": WinoGrande(),
}
# Files of other names, by the fields that their rows have.
_BY_FIELDS: Mapping[tuple[str, ...], Task] = {
    ("query", "choices", "gold"): MultipleChoice(),
    ("context_options", "continuation", "gold"): ContextChoice(),
    ("context", "continuation"): Continuation(),
}


def find_task(name: str, path: str | Path) -> Task:
    """Return the task that a name begins with, or the one for the fields of a file's first row.

    Raises:
        UsageError: neither is known, or the file does not exist.
        BadInputError: the file cannot be read.
    """
    words = re.split(r"[-_.]", name.lower())
    for count in range(len(words), 0, -1):
        for known, task in KNOWN_TASKS.items():
            if known.split("_") == words[:count]:
                return task
    _, row = next(read_items(path), (0, None))
    fields = [str(field) for field in row] if isinstance(row, Mapping) else []
    for needed, task in _BY_FIELDS.items():
        if set(needed) <= set(fields):
            return task
    raise UsageError(
        f"no task is known by the name {name!r}{did_you_mean(name, KNOWN_TASKS)}, nor by the "
        f"fields of {path}: {', '.join(fields) or 'none'}; names: {', '.join(KNOWN_TASKS)}; "
        f"fields: {'; '.join(', '.join(needed) for needed in _BY_FIELDS)}. Name the fields of "
        "another file in a config: --task-config NAME=CONFIG.py"
    )
