"""The first reason against each document of a batch."""

from collections.abc import Sequence

import numpy as np


class Reasons:
    """Collects reasons; a document keeps the first one it gets.

    Attributes:
        first: for each document its reason, or None.
    """

    def __init__(self, first: Sequence[str | None]) -> None:
        self.first = list(first)

    def add(self, documents: np.ndarray, reason: str) -> None:
        """Give `reason` to these documents, by number."""
        for document in documents.tolist():
            if self.first[document] is None:
                self.first[document] = reason

    @property
    def is_open_D(self) -> np.ndarray:
        """bool [D]: documents that nothing has been said against yet."""
        return np.array([reason is None for reason in self.first], bool)
