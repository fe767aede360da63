"""Options of `jaxgpt.eval` about tasks, and what they ask for."""

from typing import Annotated, Any

import tyro

from jaxgpt.config import configclass, load_config, replace
from jaxgpt.errors import UsageError
from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.evaluation.runner import core
from jaxgpt.evaluation.runner.example_options import ExampleOptions
from jaxgpt.evaluation.runner.known_tasks import find_task
from jaxgpt.evaluation.runner.results import TaskResult, describe, write_samples
from jaxgpt.evaluation.runner.run_task import run_task
from jaxgpt.evaluation.scoring import Scorer
from jaxgpt.evaluation.tasks.shots import Shots
from jaxgpt.evaluation.tasks.task import Task
from jaxgpt.evaluation.text_tasks.human_eval import HumanEval


@configclass
class TaskOptions:
    """Tasks to score a model on."""

    tasks: tuple[str, ...] = ()
    """Tasks and their local files, as NAME=FILE; hellaswag, piqa, arc_easy, ... are known names."""
    task_config: tuple[str, ...] = ()
    """Configs of tasks that are not known, as NAME=CONFIG.py; each defines `config`, a Task."""
    core: tuple[str, ...] = ()
    """Folders with files of CORE, the 22 tasks of DataComp-LM, or single ones as NAME=FILE."""
    shots: Annotated[Shots, tyro.conf.arg(name="")] = Shots()
    examples: Annotated[ExampleOptions, tyro.conf.arg(name="")] = ExampleOptions()
    limit: int | None = None
    """Most items of each task, from the beginning of its file; None: all."""
    add_bos: bool = True
    """BOS token before each context, as before each document in training."""
    samples: str | None = None
    """File that takes a record of each item, as JSON lines."""
    run_code: bool = False
    """Run of the programs that a model writes for HumanEval, in processes without a network."""
    against: str | None = None
    """Run folder of a second model; the differences on the same items are added."""
    against_step: str = "latest"
    """Checkpoint of the second model: latest, best, or a step's number."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit={self.limit} must be at least 1, or None")
        if self.task_config and not self.are_asked_for:
            raise ValueError("--task-config needs tasks; name them with --tasks NAME=FILE")
        for name in ("samples", "against"):
            if getattr(self, name) and not (self.are_asked_for or self.examples.examples):
                raise ValueError(
                    f"--{name} needs tasks or examples; name them with --tasks NAME=FILE, or "
                    "give --examples N"
                )

    @property
    def are_asked_for(self) -> bool:
        """Return whether there is any task to score."""
        return bool(self.tasks or self.core)


def run_tasks(
    options: TaskOptions, loaded: LoadedModel, batch_size: int, silent: bool
) -> list[TaskResult]:
    """Score a model on all tasks that the options name; those of CORE come last.

    Raises:
        UsageError, BadInputError: as for `run_task`.
    """
    if not options.are_asked_for:
        return []
    files = _pairs("--tasks", options.tasks)
    configs = {
        name: load_config(path, Task)
        for name, path in _pairs("--task-config", options.task_config).items()
    }
    if unknown := configs.keys() - files.keys():
        raise UsageError(
            f"--task-config names {', '.join(sorted(unknown))}, which --tasks does not"
        )
    tasks = [configs.get(name) or find_task(name, path) for name, path in files.items()]
    if options.run_code:
        tasks = [
            replace(task, run_code=True) if isinstance(task, HumanEval) else task for task in tasks
        ]
    scorer = Scorer(loaded, batch_size, options.add_bos, silent)
    results = [
        run_task(name, path, scorer, options.shots, options.limit, task)
        for (name, path), task in zip(files.items(), tasks, strict=True)
    ]
    if options.core:
        results += core.run_core(options.core, scorer, options.limit)
    return results


def report_tasks(
    options: TaskOptions, results: list[TaskResult], others: list[TaskResult], is_writer: bool
) -> dict[str, Any]:
    """Return the figures as JSON has them; write the records of the items where they are wanted.

    Args:
        options: what was asked for.
        results: of the model.
        others: of the second model on the same tasks; none without one.
        is_writer: whether this process writes files.
    """
    report = describe(results)
    if options.core:
        count = len(_pairs("--tasks", options.tasks))
        of_core = [each for each in results[count:] if each.name in core.CORE_TASKS]
        report["core"] = core.aggregate(of_core)
    if others:
        pairs = list(zip(results, others, strict=True))
        report["difference"] = {ours.name: ours.compare(theirs) for ours, theirs in pairs}
        for ours, theirs in pairs:
            report["task_settings"][ours.name]["against_prompt_form"] = theirs.prompt_form
    if options.samples is not None and is_writer:
        write_samples(options.samples, results)
    return report


def _pairs(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    """Divide texts of the form NAME=VALUE.

    Raises:
        UsageError: one has another form, or a name comes twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{option} {text} must have the form NAME=FILE")
        if name in pairs:
            raise UsageError(f"{option} names {name} twice; give each file a name of its own")
        pairs[name] = value
    return pairs
