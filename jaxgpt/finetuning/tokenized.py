"""`TokenizedExamples`: examples as arrays, between the files that are read and the rows of a batch.

Axes: S sequences, N tokens of all sequences, E examples.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class TokenizedExamples:
    """Examples in the order of their files. All arrays are NumPy's.

    Attributes:
        tokens_N: int32, ids of all sequences, one after the other.
        weights_N: float32, weight of each token as a target; 0 for the first of a sequence.
        offsets: int64 [S + 1], where sequences begin and end in `tokens_N`.
        group_size: sequences of an example: 1, or 2 for a pair (preferred, rejected). Example e has
            the sequences e * group_size .. (e + 1) * group_size - 1.
        labels: facts of examples that are no tokens, by name, each [E, ...].
        token_labels: facts of single tokens, by name, each [N, ...].
    """

    tokens_N: np.ndarray
    weights_N: np.ndarray
    offsets: np.ndarray
    group_size: int = 1
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    token_labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of examples."""
        return (len(self.offsets) - 1) // self.group_size

    @property
    def lengths_S(self) -> np.ndarray:
        """Return the number of tokens of each sequence, int64."""
        return np.diff(self.offsets)

    @property
    def lengths_E(self) -> np.ndarray:
        """Return the number of tokens of each example, all its sequences together, int64."""
        return self.lengths_S.reshape(-1, self.group_size).sum(axis=1)

    @property
    def num_targets(self) -> int:
        """Return the number of tokens that are predicted."""
        return int(np.count_nonzero(self.weights_N))

    def sequence(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids and the weights of a sequence."""
        start, stop = self.offsets[index], self.offsets[index + 1]
        return self.tokens_N[start:stop], self.weights_N[start:stop]

    def select(self, examples: np.ndarray) -> "TokenizedExamples":
        """Return some examples, in the order of their indices."""
        sequences = examples[:, None] * self.group_size + np.arange(self.group_size)
        lengths = self.lengths_S[sequences.ravel()]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        starts = np.repeat(self.offsets[sequences.ravel()] - offsets[:-1], lengths)
        places = starts + np.arange(offsets[-1])
        return TokenizedExamples(
            tokens_N=self.tokens_N[places],
            weights_N=self.weights_N[places],
            offsets=offsets,
            group_size=self.group_size,
            labels={name: values[examples] for name, values in self.labels.items()},
            token_labels={name: values[places] for name, values in self.token_labels.items()},
        )

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of everything that training reads of the examples."""
        named = {**self.labels, **self.token_labels}
        digest = hashlib.sha256(json.dumps([self.group_size, sorted(named)]).encode("utf-8"))
        arrays = [self.tokens_N, self.weights_N, self.offsets]
        for array in [*arrays, *(named[name] for name in sorted(named))]:
            digest.update(str((array.dtype.str, array.shape)).encode("utf-8"))
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def answer_place(weights_L: np.ndarray) -> tuple[int, int]:
    """Return the beginning and end of the last targets of a sequence; twice its length without one.

    What follows it, such as an answer that is not to be learned, is no part of the answer.
    """
    targets = np.flatnonzero(weights_L > 0)
    if not len(targets):
        return len(weights_L), len(weights_L)
    last = int(targets[-1])
    return int(np.flatnonzero(weights_L[:last] == 0)[-1]) + 1, last + 1
