"""Running a task on a file: read all rows, score the items, and keep a record of each."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.config import to_dict
from jaxgpt.errors import BadInputError
from jaxgpt.evaluation.runner.known_tasks import find_task
from jaxgpt.evaluation.runner.results import TaskResult, gather
from jaxgpt.evaluation.scoring import Scorer
from jaxgpt.evaluation.tasks.shots import Shots
from jaxgpt.evaluation.tasks.task import Item, Measured, Task
from jaxgpt.storage.durable import hash_file

logger = logging.getLogger(__name__)


def run_task(
    name: str,
    path: str | Path,
    scorer: Scorer,
    shots: Shots,
    limit: int | None = None,
    task: Task | None = None,
) -> TaskResult:
    """Score a model on the items of a file.

    Args:
        name: the name of the result; it chooses the task.
        path: the file; its rows may have the fields of llm-foundry or of the data set itself.
        scorer: scores text with the model.
        shots: examples before each question, from the same file; none before whole documents.
        limit: most items to score, from the beginning; None for all.
        task: the task, whatever the name says.

    Raises:
        UsageError: the file does not exist, or no task fits to it.
        BadInputError: a row cannot be read; file and line are named.
    """
    task = task or find_task(name, path)
    shots = shots if task.takes_examples else Shots()
    rows = list(task.read_file(path))
    items = [_read(task, row, f"{path}:{place}") for place, row in rows]
    if not items:
        raise BadInputError(f"{path} has no item; give a file with at least one")
    scored = items[:limit]
    prefixes = [shots.prefix(items, index, task.shot_separator) for index in range(len(scored))]
    scores = task.score(scorer, scored, prefixes)
    measured: list[dict[str, Measured]] = [
        task.measure(item, each) for item, each in zip(scored, scores, strict=True)
    ]
    num_cut = sum(any(score.num_cut for score in each) for each in scores)
    if num_cut:
        logger.warning(
            "%s: the beginning of %d of %d items was cut, because they are longer than the context "
            "of %d tokens", name, num_cut, len(scored), scorer.loaded.context_length,
        )  # fmt: skip
    samples = [
        {
            "line": place,
            "requests": [(prefix + request.context, request.continuation)
                         for request in item.requests],
            "gold": item.gold,
            **task.record(each),
            "metrics": {key: value.value for key, value in values.items()},
        }
        for (place, _), item, prefix, each, values in zip(
            rows, scored, prefixes, scores, measured, strict=False
        )
    ]  # fmt: skip
    return TaskResult(
        name=name,
        metrics=task.metrics,
        values=gather(measured),
        settings=_settings(task, path, scored, scorer, shots),
        samples=samples,
        num_cut=num_cut,
        prompt_form=task.prompt_form(scorer.loaded),
        figures=task.measure_all(scored, scores),
    )


def _settings(
    task: Task, path: str | Path, items: Sequence[Item], scorer: Scorer, shots: Shots
) -> dict[str, Any]:
    """Return what the figures depend on."""
    chances = [task.chance(item) for item in items]
    return {
        "task": type(task).__name__,
        "config": to_dict(task),
        "file": str(path),
        "sha256": hash_file(path),
        "items": len(items),
        "num_shots": shots.num_shots,
        "shots_seed": shots.shots_seed,
        "bos": scorer.add_bos,
        "form": task.form,
        "normalisation": {key: metric.normalisation for key, metric in task.metrics.items()},
        "chance": None if None in chances else float(np.mean(np.array(chances, float))),
    }


def _read(task: Task, row: Any, place: str) -> Item:
    """Read a row, and name its place if it is not as the task has them."""
    if not isinstance(row, Mapping):
        raise BadInputError(f"{place} is no object with fields, which {type(task).__name__} needs")
    try:
        return task.read(row)
    except ValueError as error:
        raise BadInputError(
            f"{place} is no item of {type(task).__name__}: {error}; correct the file, or name its "
            "fields in a config: --task-config NAME=CONFIG.py"
        ) from None
