"""Rows that examples share: bin packing by best-fit decreasing.

The longest example comes first; each goes into the row in which it leaves the least room, and a new
row is opened where it fits into none. No example is split. For E examples it takes O(E log E): the
lengths only fall, so a row that is too full for one example waits in a heap until they are short
enough. The rows are at most 11/9 of the fewest possible, plus a constant (Johnson and others 1974,
"Worst-case performance bounds for simple one-dimensional packing algorithms").

Axes: E examples, B rows.
"""

import heapq
from dataclasses import dataclass

import numpy as np

from jaxgpt.errors import BadInputError


@dataclass(frozen=True)
class Packing:
    """Examples in rows.

    Attributes:
        examples_E: int64, indices of the examples, one row after the other; inside a row the
            longest comes first.
        offsets: int64 [B + 1], where rows begin and end in `examples_E`.
    """

    examples_E: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.offsets) - 1

    def row(self, index: int) -> np.ndarray:
        """Return the indices of the examples in a row."""
        return self.examples_E[self.offsets[index] : self.offsets[index + 1]]


def pack(lengths_E: np.ndarray, row_length: int) -> Packing:
    """Return rows that hold every example once, and none more than `row_length` tokens.

    Equal lengths give equal rows: ties go to the example and to the row that came first.

    Raises:
        BadInputError: an example is empty, or longer than a row.
    """
    lengths_E = np.asarray(lengths_E, np.int64)
    wrong = np.flatnonzero((lengths_E < 1) | (lengths_E > row_length))
    if len(wrong):
        raise BadInputError(
            f"example {wrong[0]} has {lengths_E[wrong[0]]} tokens; a row takes 1 to {row_length}. "
            "Cut or drop such examples first."
        )
    order_E = np.argsort(-lengths_E, kind="stable")
    values, counts = np.unique(lengths_E, return_counts=True)
    rows, shares = _fill(values[::-1].tolist(), counts[::-1].tolist(), row_length)
    rows_E = np.repeat(np.array(rows, np.int64), np.array(shares, np.int64))
    members_B = np.bincount(rows_E)
    return Packing(
        examples_E=order_E[np.argsort(rows_E, kind="stable")],
        offsets=np.concatenate([[0], np.cumsum(members_B)]).astype(np.int64),
    )


def _fill(lengths: list[int], counts: list[int], row_length: int) -> tuple[list[int], list[int]]:
    """Return which row takes how many of the examples next in order, as two lists.

    Args:
        lengths: the lengths that occur, falling.
        counts: the number of examples of each.
        row_length: the tokens that a row takes.
    """
    rows, shares = [], []
    open_rows: list[tuple[int, int]] = []  # (room, row) where the present length fits
    waiting: list[tuple[int, int]] = []  # (-room, row) where it does not
    num_rows = 0
    for length, count in zip(lengths, counts, strict=True):
        while waiting and -waiting[0][0] >= length:
            room, row = heapq.heappop(waiting)
            heapq.heappush(open_rows, (-room, row))
        while count:
            if open_rows:
                room, row = heapq.heappop(open_rows)
            else:
                room, row = row_length, num_rows
                num_rows += 1
            # A row that was the best for one example is the best for the next of equal length.
            share = min(count, room // length)
            count -= share
            rows.append(row)
            shares.append(share)
            room -= share * length
            if room >= length:
                heapq.heappush(open_rows, (room, row))
            elif room:
                heapq.heappush(waiting, (-room, row))
    return rows, shares
