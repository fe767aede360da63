"""`BatchSource`: the training batches of a run, whatever they were made from."""

from collections.abc import Sequence
from typing import Any, Protocol

from jaxgpt.batch import Batch
from jaxgpt.data.prefetch import Prefetched


class BatchSource(Protocol):
    """Training batches without end; batch k is a pure function of k.

    Attributes:
        fingerprint: what the sequence of batches depends on, as JSON values: `datasets` and
            `order`.
        tokens_per_epoch: places for tokens in one pass over the data.
        num_segments: most segments that a row has; 0: it is not known.
    """

    @property
    def fingerprint(self) -> dict[str, Any]: ...
    @property
    def tokens_per_epoch(self) -> int: ...
    @property
    def num_segments(self) -> int: ...

    def pick(self, step: int, rows: Sequence[int]) -> Batch:
        """Return some rows of the batch of a step (from 0), NumPy arrays."""
        ...

    def iterate(
        self, start_step: int, rows: Sequence[int] | None = None, prefetch: int = 2
    ) -> Prefetched[Batch]:
        """Return an endless iterator over the batches from a step on; None: of all rows."""
        ...
