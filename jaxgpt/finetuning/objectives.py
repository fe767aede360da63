"""Objectives of fine-tuning that predict tokens of examples; preferences are in preference/."""

from typing import Any, ClassVar

from jaxgpt.config import configclass
from jaxgpt.evaluation.objective import NextToken, Objective


@configclass
class ExampleObjective(Objective):
    """Base of the objectives that learn from examples."""

    group_size: ClassVar[int] = 1
    """Sequences of an example that it learns from."""


@configclass
class Supervised(ExampleObjective, NextToken):
    """Cross-entropy of the targets of examples: answers, with what ends them, and not prompts.

    The sum over all targets of a batch is divided once by their number, so that an answer of 500
    tokens counts as 500 answers of one, however they are spread over rows and micro-batches.
    """

    def describe(self, result: dict[str, Any]) -> str:
        return (
            f"held-out target loss {result['loss']:.4f}, {result['bits_per_byte']:.4f} bits per "
            f"byte over {result['tokens']:,} targets"
        )
