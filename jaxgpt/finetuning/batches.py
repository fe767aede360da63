"""Examples -> batches: each row holds whole examples side by side, each sequence a segment.

Attention and positions stay inside a segment, so that a packed example is computed as if it were
alone. Row r of the endless sequence of rows is a pure function of (seed, r), as in pretraining.

Axes: B rows, T tokens of a row.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.data.loader import BatchConfig
from jaxgpt.data.order import shuffle_forever
from jaxgpt.data.prefetch import Prefetched
from jaxgpt.errors import ConfigError
from jaxgpt.finetuning.packing import Packing, pack
from jaxgpt.finetuning.tokenized import TokenizedExamples


class PackedRows:
    """The rows that examples are packed into.

    A sequence of n tokens takes n - 1 places: its last token is a target and no input.

    Attributes:
        examples: in the rows.
        sequence_length: T.
        num_segments: most sequences in one row.
    """

    def __init__(self, examples: TokenizedExamples, sequence_length: int) -> None:
        self.examples = examples
        self.sequence_length = sequence_length
        self._packing: Packing = pack(examples.lengths_E - examples.group_size, sequence_length)
        most = int(np.diff(self._packing.offsets).max(initial=0))
        self.num_segments = most * examples.group_size

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._packing)

    def members(self, row: int) -> np.ndarray:
        """Return the indices of the examples in a row, in their order there."""
        return self._packing.row(row)

    def batch(self, rows: Sequence[int | None]) -> Batch:
        """Return some rows as a batch of NumPy arrays; None stands for a row of padding."""
        shape = (len(rows), self.sequence_length)
        labels = {**self.examples.labels, **self.examples.token_labels}
        batch = Batch(
            tokens_BT=np.zeros(shape, np.int32),
            targets_BT=np.zeros(shape, np.int32),
            segment_ids_BT=np.zeros(shape, np.int32),
            positions_BT=np.zeros(shape, np.int32),
            loss_weights_BT=np.zeros(shape, np.float32),
            extras={
                name: np.zeros((*shape, *values.shape[1:]), values.dtype)
                for name, values in labels.items()
            }
            or None,
        )
        for place, row in enumerate(rows):
            if row is not None:
                self._fill(batch, place, row)
        return batch

    def _fill(self, batch: Batch, place: int, row: int) -> None:
        """Write the sequences of a row side by side."""
        start, segment = 0, 0
        for example in self.members(row):
            first = start
            for member in range(self.examples.group_size):
                sequence = int(example) * self.examples.group_size + member
                tokens, weights = self.examples.sequence(sequence)
                segment += 1
                here = slice(start, start + len(tokens) - 1)
                batch.tokens_BT[place, here] = tokens[:-1]
                batch.targets_BT[place, here] = tokens[1:]
                batch.loss_weights_BT[place, here] = weights[1:]
                batch.segment_ids_BT[place, here] = segment
                batch.positions_BT[place, here] = np.arange(len(tokens) - 1)
                begin = self.examples.offsets[sequence]
                for name, values in self.examples.token_labels.items():
                    assert batch.extras is not None
                    batch.extras[name][place, here] = values[begin : begin + len(tokens) - 1]
                start = here.stop
            for name, values in self.examples.labels.items():
                assert batch.extras is not None
                batch.extras[name][place, first:start] = values[example]


class ExampleBatches:
    """Training batches of examples, without end.

    Attributes:
        tokens_per_epoch: places for tokens in the rows of one pass.
        num_segments: most sequences in one row.
        fingerprint: what the sequence of batches depends on, as JSON values.
    """

    def __init__(self, examples: TokenizedExamples, batch: BatchConfig, seed: int) -> None:
        if not len(examples):
            raise ConfigError("there is no example to train on")
        self.rows = PackedRows(examples, batch.sequence_length)
        self._order = shuffle_forever(range(len(self.rows)), seed, 0)
        self._global_batch_size = batch.global_batch_size
        self.tokens_per_epoch = len(self.rows) * batch.sequence_length
        self.num_segments = self.rows.num_segments
        self.fingerprint: dict[str, Any] = {
            "datasets": [{"fingerprint": examples.fingerprint, "share": 1.0}],
            "order": {
                "seed": seed,
                "sequence_length": batch.sequence_length,
                "global_batch_size": batch.global_batch_size,
            },
        }

    def pick(self, step: int, rows: Sequence[int]) -> Batch:
        """Return some rows of the batch of a step (from 0), in the order given."""
        first = step * self._global_batch_size
        return self.rows.batch([int(self._order[first + row]) for row in rows])

    def iterate(
        self, start_step: int, rows: Sequence[int] | None = None, prefetch: int = 2
    ) -> Prefetched[Batch]:
        """Return an endless iterator over `pick(k, rows)`, k = start_step, ...; None: all rows."""
        chosen = range(self._global_batch_size) if rows is None else rows
        return Prefetched(lambda step: self.pick(step, chosen), start_step, prefetch)


class Rows(Protocol):
    """Rows that held-out batches are made of.

    Attributes:
        sequence_length: T.
        num_segments: most sequences in one row.
    """

    sequence_length: int
    num_segments: int

    def __len__(self) -> int: ...

    def batch(self, rows: Sequence[int | None]) -> Batch:
        """Return some rows as a batch of NumPy arrays; None stands for a row of padding."""
        ...


R = TypeVar("R", bound=Rows)


class HeldOutRows(Generic[R]):
    """Examples that no step trains on, in the order of their rows.

    Attributes:
        examples: the examples.
        rows: where they stand.
        num_segments: most sequences in one row.
    """

    def __init__(self, examples: TokenizedExamples, rows: R) -> None:
        self.examples = examples
        self.rows = rows
        self.num_segments = rows.num_segments

    def batches(self, batch_size: int, max_tokens: int | None = None) -> Iterator[Batch]:
        """Yield batches of `batch_size` rows; rows of padding fill the last one."""
        num_rows = self._num_rows(max_tokens)
        for start in range(0, num_rows, batch_size):
            rows: list[int | None] = list(range(start, min(start + batch_size, num_rows)))
            yield self.rows.batch(rows + [None] * (batch_size - len(rows)))

    def count_batches(self, batch_size: int, max_tokens: int | None = None) -> int:
        """Return how many batches `batches` yields."""
        return -(-self._num_rows(max_tokens) // batch_size)

    def settings(self, max_tokens: int | None = None) -> dict[str, Any]:
        """Return what measurements must share to be comparable, as JSON values."""
        return {
            "data": self.examples.fingerprint,
            "rows": self._num_rows(max_tokens),
            "sequence_length": self.rows.sequence_length,
        }

    def _num_rows(self, max_tokens: int | None) -> int:
        if max_tokens is None:
            return len(self.rows)
        return min(len(self.rows), max(1, max_tokens // self.rows.sequence_length))


class HeldOutExamples(HeldOutRows[PackedRows]):
    """Examples that no step trains on, packed."""

    def __init__(self, examples: TokenizedExamples, sequence_length: int) -> None:
        super().__init__(examples, PackedRows(examples, sequence_length))
