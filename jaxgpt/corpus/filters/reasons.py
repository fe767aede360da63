"""The first reason against each document of a batch."""

import numpy as np


class Reasons:
    """Collects reasons; a document keeps the first one it gets.

    Attributes:
        first: for each document its reason, or None.
    """

    def __init__(self, num_documents: int) -> None:
        self.first: list[str | None] = [None] * num_documents

    def add(self, is_rejected_D: np.ndarray, reason: str) -> None:
        """Give `reason` to the documents where bool [D] `is_rejected_D` is true."""
        for document in np.flatnonzero(is_rejected_D):
            if self.first[document] is None:
                self.first[document] = reason

    @property
    def is_open_D(self) -> np.ndarray:
        """bool [D]: documents that nothing has been said against yet."""
        return np.array([reason is None for reason in self.first], bool)
