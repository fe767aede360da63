"""Scores of single held-out examples: what an objective is given for them, and what it returns.

An objective has `score_examples`, which asks the model about each example: it ranks pairs, writes
answers, or chooses labels. The figures are those of a task: means with standard errors, and paired
differences to a second model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.evaluation.runner.example_options import ExampleOptions
from jaxgpt.evaluation.runner.results import TaskResult
from jaxgpt.evaluation.statistics import Metric, Values
from jaxgpt.finetuning.batches import PackedRows
from jaxgpt.finetuning.tokenized import TokenizedExamples


@dataclass(frozen=True, eq=False)
class ExampleScoring:
    """Model, examples and options that scores are made from.

    Attributes:
        loaded: the model.
        rows: the examples, packed.
        options: what was asked for.
        batch_size: rows at a time.
        read_training: reads the examples that the run was trained on.
        silent: show no progress.
    """

    loaded: LoadedModel
    rows: PackedRows
    options: ExampleOptions
    batch_size: int
    read_training: Callable[[], TokenizedExamples]
    silent: bool

    def result(
        self,
        name: str,
        form: str,
        values: Mapping[str, np.ndarray],
        samples: Sequence[Mapping[str, Any]],
        chance: float | None = None,
        figures: Mapping[str, Any] | None = None,
        left_out: Mapping[str, int] | None = None,
    ) -> TaskResult:
        """Return the result for values of each metric by example, [E].

        Args:
            name: name of the result.
            form: the way in which the model was asked.
            values: the values.
            samples: a record for each example.
            chance: accuracy of a guess.
            figures: figures that are no mean over examples.
            left_out: examples that have no values, by reason.
        """
        ones_E = np.ones(len(samples))
        return TaskResult(
            name=name,
            metrics={metric: Metric("none") for metric in values},
            values={
                metric: Values(np.asarray(each, np.float64), ones_E)
                for metric, each in values.items()
            },
            settings={
                "form": form,
                "examples": self.rows.examples.fingerprint,
                "items": len(samples),
                "left_out": dict(left_out or {}),
                "num_shots": 0,
                "bos": True,
                "chance": chance,
            },
            samples=samples,
            num_cut=0,
            prompt_form="as in training",
            figures=figures or {},
        )
