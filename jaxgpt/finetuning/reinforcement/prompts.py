"""Prompts in batches with room for answers, one row each.

The examples are those of supervised fine-tuning. What they predict is here the right answer, which
the model does not see; the prompt is everything before it.

Axes: B rows, T tokens of a row, E examples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.data.loader import BatchConfig
from jaxgpt.data.order import shuffle_forever
from jaxgpt.data.prefetch import Prefetched
from jaxgpt.finetuning.batches import HeldOutRows
from jaxgpt.finetuning.tokenized import TokenizedExamples, answer_place

# What a batch brings with it, [B, T] each: ids of the right answer, then -1; the number of the row
# among all rows that a run draws; and, once answers are drawn, the log-probability that each token
# was drawn with, and the advantage of its answer.
REFERENCES = "references"
ROW_NUMBERS = "row_numbers"
DRAWN_LOG_PROBABILITIES = "drawn_log_probabilities"
ADVANTAGES = "advantages"


class Prompts:
    """The prompts of examples, and their right answers.

    Attributes:
        examples: one sequence each.
        sequence_length: T.
        num_segments: 1, as each row has one prompt.
    """

    num_segments = 1

    def __init__(self, examples: TokenizedExamples, sequence_length: int) -> None:
        self.examples = examples
        self.sequence_length = sequence_length

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.examples)

    def batch(self, rows: Sequence[int | None], row_numbers: Sequence[int] | None = None) -> Batch:
        """Return prompts as a batch of NumPy arrays; None stands for a row of padding.

        Args:
            rows: indices of examples.
            row_numbers: number of each row; None: from 0 on.
        """
        row_numbers = range(len(rows)) if row_numbers is None else row_numbers
        shape = (len(rows), self.sequence_length)
        tokens_BT, segment_ids_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        references_BT = np.full(shape, -1, np.int32)
        for row, place in enumerate(rows):
            if place is None:
                continue
            ids, weights = self.examples.sequence(place)
            start, end = answer_place(weights)
            tokens_BT[row, :start] = ids[:start]
            segment_ids_BT[row, :start] = 1
            references_BT[row, : end - start] = ids[start:end]
        positions_BT = np.arange(self.sequence_length, dtype=np.int32) * segment_ids_BT
        numbers_B1 = np.array([[number % 2**32] for number in row_numbers], np.uint32)
        return Batch(
            tokens_BT=tokens_BT,
            targets_BT=np.zeros(shape, np.int32),
            segment_ids_BT=segment_ids_BT,
            positions_BT=positions_BT,
            loss_weights_BT=np.zeros(shape, np.float32),
            extras={
                REFERENCES: references_BT,
                ROW_NUMBERS: np.broadcast_to(numbers_B1, shape),
                DRAWN_LOG_PROBABILITIES: np.zeros(shape, np.float32),
                ADVANTAGES: np.zeros(shape, np.float32),
            },
        )


class PromptBatches:
    """Training batches, without end: groups of equal prompts side by side.

    Row r of a run has a number of its own, so that the answer that it draws is a function of the
    seed, this number, and the parameters at its step.

    Attributes:
        num_segments: 1, as each row has one prompt.
        tokens_per_epoch: places for tokens in the rows of one pass.
        fingerprint: what the sequence of batches depends on, as JSON values.
    """

    num_segments = 1

    def __init__(
        self, examples: TokenizedExamples, batch: BatchConfig, seed: int, group_size: int
    ) -> None:
        self.prompts = Prompts(examples, batch.sequence_length)
        self._order = shuffle_forever(range(len(examples)), seed, 0)
        self._num_rows, self._group_size = batch.global_batch_size, group_size
        self.tokens_per_epoch = len(examples) * group_size * batch.sequence_length
        self.fingerprint: dict[str, Any] = {
            "datasets": [{"fingerprint": examples.fingerprint, "share": 1.0}],
            "order": {
                "seed": seed,
                "sequence_length": batch.sequence_length,
                "global_batch_size": batch.global_batch_size,
                "group_size": group_size,
            },
        }

    def pick(self, step: int, rows: Sequence[int]) -> Batch:
        """Return some rows of the batch of a step (from 0), in the order given."""
        numbers = [step * self._num_rows + row for row in rows]
        places = [int(self._order[number // self._group_size]) for number in numbers]
        return self.prompts.batch(places, numbers)

    def iterate(
        self, start_step: int, rows: Sequence[int] | None = None, prefetch: int = 2
    ) -> Prefetched[Batch]:
        """Return an endless iterator over `pick(k, rows)`, k = start_step, ...; None: all rows."""
        chosen = range(self._num_rows) if rows is None else rows
        return Prefetched(lambda step: self.pick(step, chosen), start_step, prefetch)


class HeldOutPrompts(HeldOutRows[Prompts]):
    """Prompts that no step draws answers to, one row each, in their order."""

    def __init__(self, examples: TokenizedExamples, sequence_length: int) -> None:
        super().__init__(examples, Prompts(examples, sequence_length))
