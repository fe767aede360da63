"""`Sources`: the data of a run, whatever they were made from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jaxgpt.data.batch_source import BatchSource
from jaxgpt.evaluation.held_out import HeldOut
from jaxgpt.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sources:
    """Data that a run reads.

    Attributes:
        batches: to train on.
        held_out: to measure the model on.
        tokenizer: of both.
        warn: from the number of passes over the data to warnings.
        also_measured: further held-out data, by the names of their losses.
    """

    batches: BatchSource
    held_out: HeldOut
    tokenizer: Tokenizer
    warn: Callable[[float], list[str]]
    also_measured: Mapping[str, HeldOut] = field(default_factory=dict)
