"""A split cut into windows, as a random-access source (in Grain's sense). Knows no order.

Axes: W = T + 1 tokens of a window.
"""

from typing import Protocol

import numpy as np


class TokenSource(Protocol):
    """The part of `TokenSplit` that is read: tokens by position, and beginnings of documents."""

    @property
    def num_tokens(self) -> int:
        """Length of the split."""
        ...

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the ids at [start, stop)."""
        ...

    def document_starts(self, start: int, stop: int) -> np.ndarray:
        """Return the positions in [start, stop) at which a document begins."""
        ...


class Windows:
    """Windows of `sequence_length` + 1 tokens, one at every `sequence_length`-th token.

    Window w holds the tokens wT .. wT + T: each one is the last of one window and the first of
    the next, so all but the split's first are a target once. A rest at the end that does not
    fill a window is left out.
    """

    def __init__(self, split: TokenSource, sequence_length: int) -> None:
        self._split = split
        self._sequence_length = sequence_length

    def __len__(self) -> int:
        return max(0, (self._split.num_tokens - 1) // self._sequence_length)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (tokens_W, starts_W) of one window, see `read_with_starts`."""
        start = int(index) * self._sequence_length
        return read_with_starts(self._split, start, start + self._sequence_length + 1)


def read_with_starts(split: TokenSource, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and flags, [stop - start] each; a flag is true where a document begins."""
    starts = np.zeros(stop - start, np.bool_)
    starts[split.document_starts(start, stop) - start] = True
    return split.read(start, stop), starts
