"""CORE (DataComp-LM, Li et al. 2024, arXiv:2406.11794): one figure from 22 tasks.

The accuracy of each task is centred: 0 is chance and 1 is perfect, (acc - chance) / (1 - chance).
CORE is the mean. Files, numbers of examples and levels of chance are those of the repository
mlfoundations/dclm (eval/heavy.yaml, eval/eval_meta_data_v1.csv); choices are compared by the mean
log-likelihood of their tokens, as llm-foundry does.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxgpt.errors import UsageError, did_you_mean
from jaxgpt.evaluation.runner.results import TaskResult
from jaxgpt.evaluation.runner.run_task import run_task
from jaxgpt.evaluation.scoring import Scorer
from jaxgpt.evaluation.statistics import estimate
from jaxgpt.evaluation.tasks.context_choice import ContextChoice
from jaxgpt.evaluation.tasks.continuation import Continuation
from jaxgpt.evaluation.tasks.multiple_choice import MultipleChoice
from jaxgpt.evaluation.tasks.shots import Shots
from jaxgpt.evaluation.tasks.task import Task

# llm-foundry separates examples by one line break.
_CHOICE = MultipleChoice(shot_separator="\n")
_ANSWER = MultipleChoice(shot_separator="\n", ending="\nAnswer:")
_SCHEMA = ContextChoice(shot_separator="\n")
_TEXT = Continuation(shot_separator="\n")
# Its own seed of the draw of examples; the draws are not the same.
_SEED = 1234


class CoreTask(NamedTuple):
    """One of the 22 tasks: the name of its file, and how it is asked."""

    file: str
    task: Task
    num_shots: int
    chance: float


CORE_TASKS: Mapping[str, CoreTask] = {
    "hellaswag_zeroshot": CoreTask("hellaswag.jsonl", _CHOICE, 0, 0.25),
    "jeopardy": CoreTask(
        "jeopardy_all.jsonl", Continuation(shot_separator="\n", separator="\nAnswer: "), 10, 0.0
    ),
    "bigbench_qa_wikidata": CoreTask("bigbench_qa_wikidata.jsonl", _TEXT, 10, 0.0),
    "arc_easy": CoreTask("arc_easy.jsonl", _ANSWER, 10, 0.25),
    "arc_challenge": CoreTask("arc_challenge.jsonl", _ANSWER, 10, 0.25),
    "copa": CoreTask("copa.jsonl", _CHOICE, 0, 0.5),
    "commonsense_qa": CoreTask("commonsense_qa.jsonl", _CHOICE, 10, 0.2),
    "piqa": CoreTask("piqa.jsonl", _ANSWER, 10, 0.5),
    "openbook_qa": CoreTask("openbook_qa.jsonl", _CHOICE, 0, 0.25),
    "lambada_openai": CoreTask("lambada_openai.jsonl", _TEXT, 0, 0.0),
    "hellaswag": CoreTask("hellaswag.jsonl", _CHOICE, 10, 0.25),
    "winograd": CoreTask("winograd_wsc.jsonl", _SCHEMA, 0, 0.5),
    "winogrande": CoreTask("winogrande.jsonl", _SCHEMA, 0, 0.5),
    "bigbench_dyck_languages": CoreTask("bigbench_dyck_languages.jsonl", _TEXT, 10, 0.0),
    "agi_eval_lsat_ar": CoreTask("agi_eval_lsat_ar.jsonl", _CHOICE, 3, 0.2),
    "bigbench_cs_algorithms": CoreTask("bigbench_cs_algorithms.jsonl", _TEXT, 10, 0.0),
    "bigbench_operators": CoreTask("bigbench_operators.jsonl", _TEXT, 10, 0.0),
    "bigbench_repeat_copy_logic": CoreTask("bigbench_repeat_copy_logic.jsonl", _TEXT, 10, 0.0),
    "squad": CoreTask("squad.jsonl", _TEXT, 10, 0.0),
    "coqa": CoreTask("coqa.jsonl", _TEXT, 0, 0.0),
    "boolq": CoreTask("boolq.jsonl", _ANSWER, 10, 0.62),
    "bigbench_language_identification": CoreTask(
        "bigbench_language_identification.jsonl", _CHOICE, 10, 0.091
    ),
}


def find_files(places: Sequence[str]) -> dict[str, Path]:
    """Return the files of tasks by name, in the order of `CORE_TASKS`.

    A file that is given by its task's name goes before one that lies below a folder.

    Args:
        places: folders, below which files have the names of llm-foundry, or NAME=FILE of tasks.

    Raises:
        UsageError: a task is not known or is named twice, or no folder has a file.
    """
    named, below = {}, {}
    for place in places:
        name, equals, path = place.partition("=")
        if not equals:
            below |= {each.name: each for each in sorted(Path(place).rglob("*.jsonl"))}
            continue
        if name not in CORE_TASKS:
            raise UsageError(
                f"--core {place}: no task of CORE is called {name!r}"
                f"{did_you_mean(name, CORE_TASKS)}; there are {', '.join(CORE_TASKS)}"
            )
        if name in named:
            raise UsageError(f"--core names {name} twice; give each task one file")
        named[name] = Path(path)
    files = {name: below[task.file] for name, task in CORE_TASKS.items() if task.file in below}
    files |= named
    if not files:
        names = sorted({task.file for task in CORE_TASKS.values()})
        raise UsageError(
            f"no file of CORE below {', '.join(places)}; looked for {', '.join(names)}"
        )
    return {name: files[name] for name in CORE_TASKS if name in files}


def run_core(places: Sequence[str], scorer: Scorer, limit: int | None = None) -> list[TaskResult]:
    """Score a model on those of the 22 tasks whose files are given.

    Args:
        places: see `find_files`, also for what it raises.
        scorer: scores text with the model.
        limit: most items of each task; None: all.

    Raises:
        UsageError, BadInputError: as for `run_task`.
    """
    return [
        run_task(
            name,
            path,
            scorer,
            Shots(num_shots=CORE_TASKS[name].num_shots, shots_seed=_SEED),
            limit,
            CORE_TASKS[name].task,
        )
        for name, path in find_files(places).items()
    ]


def aggregate(results: Sequence[TaskResult]) -> dict[str, Any]:
    """Return the centred accuracy of each task, and their mean if all 22 are there."""
    centred, variance = {}, 0.0
    for result in results:
        metric = "acc_tokens" if "acc_tokens" in result.metrics else "acc"
        figure = estimate(result.metrics[metric], result.values[metric])
        room = 1 - CORE_TASKS[result.name].chance
        centred[result.name] = (figure.value - CORE_TASKS[result.name].chance) / room
        variance += ((figure.stderr or 0.0) / room) ** 2
    missing = [name for name in CORE_TASKS if name not in centred]
    is_whole = not missing
    return {
        "value": sum(centred.values()) / len(centred) if is_whole else None,
        "stderr": math.sqrt(variance) / len(centred) if is_whole else None,
        "centred": centred,
        "missing": missing,
    }
