"""Results of tasks: estimates, the conventions that they depend on, and a record of each item."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.errors import MismatchError
from jaxgpt.evaluation.statistics import Metric, Values, estimate, paired_difference
from jaxgpt.storage.durable import write_atomically


@dataclass(frozen=True)
class TaskResult:
    """Result of a task.

    Attributes:
        name: the name that the user gave to the task.
        metrics: the metrics by name.
        values: their values for each item, in the order of the file.
        settings: what the figures depend on: file, BOS, examples, form.
        samples: a record for each item.
        num_cut: number of items whose beginning did not fit into the model's context.
        figures: figures that are no mean over items, such as BLEU.
        prompt_form: what stands around a question for this model. It is no setting: each of two
            models that are compared is asked in its own form.
    """

    name: str
    metrics: Mapping[str, Metric]
    values: Mapping[str, Values]
    settings: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    num_cut: int
    figures: Mapping[str, Any] = field(default_factory=dict)
    prompt_form: str = "plain text"

    def estimates(self) -> dict[str, dict[str, Any]]:
        """Return value, standard error and number of items of each metric."""
        means = {
            name: estimate(metric, self.values[name])._asdict()
            for name, metric in self.metrics.items()
        }
        return means | dict(self.figures)

    def compare(self, other: "TaskResult") -> dict[str, dict[str, float]]:
        """Return the difference to another model's result on the same items, by metric.

        Raises:
            MismatchError: the items or the way in which they were asked are others.
        """
        if self.settings != other.settings:
            raise MismatchError(
                f"the results of {self.name} are of different items or settings; score both models "
                "on one file in one way"
            )
        return {
            name: paired_difference(metric, self.values[name], other.values[name])._asdict()
            for name, metric in self.metrics.items()
        }


def gather(measured: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, Values]:
    """Turn the values of each item into arrays by metric."""
    return {
        name: Values(*np.array([item[name] for item in measured], np.float64).T)
        for name in measured[0]
    }


def describe(results: Iterable[TaskResult]) -> dict[str, Any]:
    """Return the figures of tasks, and what they depend on, as JSON has them."""
    results = list(results)
    if not results:
        return {}
    return {
        "tasks": {result.name: result.estimates() for result in results},
        "task_settings": {
            result.name: {
                **result.settings,
                "items_cut": result.num_cut,
                "prompt_form": result.prompt_form,
            }
            for result in results
        },
    }


def write_samples(path: str | Path, results: Iterable[TaskResult]) -> None:
    """Write the record of each item of all tasks, one JSON object for each line."""
    lines = [
        json.dumps({"task": result.name, **sample}, ensure_ascii=False)
        for result in results
        for sample in result.samples
    ]
    write_atomically(path, "".join(f"{line}\n" for line in lines))
