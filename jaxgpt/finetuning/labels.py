"""`LabelObjective`: what objectives share that learn labels, of whole texts or of parts of them."""

from typing import ClassVar, Self

import numpy as np

from jaxgpt.config import configclass, replace
from jaxgpt.errors import BadInputError
from jaxgpt.finetuning.objectives import ExampleObjective


@configclass
class LabelObjective(ExampleObjective):
    """Base of the objectives that learn which of the configured labels a text has, or its parts."""

    weighs_examples: ClassVar[bool] = True
    label_name: ClassVar[str] = ""
    """Name of what a batch says about labels."""
    least_labels: ClassVar[int] = 2
    """Fewest labels that can be told apart."""
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the head's columns; those of the examples, sorted, if
    empty."""

    def __post_init__(self) -> None:
        if 0 < len(self.labels) < self.least_labels:
            raise ValueError(
                f"labels must be at least {self.least_labels}, not only {self.labels[0]!r}"
            )
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must differ from each other")

    def with_labels(self, names: tuple[str, ...]) -> Self:
        if not self.labels and len(names) < self.least_labels:
            raise BadInputError(
                f"{type(self).__name__} needs examples with at least {self.least_labels} labels, "
                f"and found {len(names)}; choose another objective, or a data.form that reads "
                f"{self.label_name!r}"
            )
        return self if self.labels else replace(self, labels=names)

    def number_labels(self, label_names: tuple[str, ...]) -> np.ndarray:
        """Return the numbers that the labels of examples have here, int32.

        Raises:
            BadInputError: one is not listed.
        """
        unknown = [each for each in label_names if each not in self.labels]
        if unknown:
            raise BadInputError(
                f"label {unknown[0]!r} is not listed in objective.labels: "
                f"{', '.join(self.labels[:20])}"
            )
        return np.array([self.labels.index(each) for each in label_names], np.int32)

    def refuse_unlabelled(self) -> None:
        """Raise an error about examples without the labels that are learned."""
        raise BadInputError(
            f"{type(self).__name__} needs examples with {self.label_name!r}; choose another "
            "objective, or a data.form that reads it"
        )
