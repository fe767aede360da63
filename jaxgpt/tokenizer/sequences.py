"""Sequences of ids out of parts: BOS, then parts, each an opening id, a content and a closing id.

All sequences are put together at once, as arrays. The meaning of openings and closings is for
others: `chat_template.py` takes roles and the end of a message, a plain text has EOS alone.

Axes: S sequences, M parts of all sequences, N ids of all contents, L ids of all sequences.
"""

from dataclasses import dataclass

import numpy as np

NO_ID = -1


@dataclass(frozen=True)
class Parts:
    """Parts of sequences, in their order. All arrays are NumPy's.

    Attributes:
        contents_N: int32, ids from which contents are taken.
        starts_M, stops_M: int64, where a part's content begins and ends in `contents_N`.
        openings_M, closings_M: int32, ids before and after the content; `NO_ID` for none.
        is_target_M: bool, whether content and closing are predicted.
        num_parts_S: int64, parts of each sequence.
    """

    contents_N: np.ndarray
    starts_M: np.ndarray
    stops_M: np.ndarray
    openings_M: np.ndarray
    closings_M: np.ndarray
    is_target_M: np.ndarray
    num_parts_S: np.ndarray

    @property
    def lengths_M(self) -> np.ndarray:
        """Return the number of ids of each part, opening and closing among them, int64."""
        opened = (self.openings_M != NO_ID).astype(np.int64)
        return self.stops_M - self.starts_M + opened + (self.closings_M != NO_ID)


def assemble(parts: Parts, bos_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ids of all sequences, the weight of each as a target, and where they begin.

    Openings and BOS are given, not predicted: their weight is 0.

    Returns:
        int32 [L], float32 [L], int64 [S + 1].
    """
    lengths_M = parts.lengths_M
    ends_M = np.concatenate([[0], np.cumsum(parts.num_parts_S)])
    parts_before_S1 = np.concatenate([[0], np.cumsum(lengths_M)])[ends_M]
    num_sequences = len(parts.num_parts_S)
    offsets = (parts_before_S1 + np.arange(num_sequences + 1)).astype(np.int64)
    tokens_L = np.empty(offsets[-1], np.int32)
    weights_L = np.zeros(offsets[-1], np.float32)
    tokens_L[offsets[:-1]] = bos_id
    sequences_M = np.repeat(np.arange(num_sequences), parts.num_parts_S)
    places_M = np.cumsum(lengths_M) - lengths_M + sequences_M + 1
    opened_M = parts.openings_M != NO_ID
    tokens_L[places_M[opened_M]] = parts.openings_M[opened_M]
    sizes_M = parts.stops_M - parts.starts_M
    inside = np.arange(sizes_M.sum()) - np.repeat(np.cumsum(sizes_M) - sizes_M, sizes_M)
    contents = np.repeat(places_M + opened_M, sizes_M) + inside
    tokens_L[contents] = parts.contents_N[np.repeat(parts.starts_M, sizes_M) + inside]
    weights_L[contents] = np.repeat(parts.is_target_M, sizes_M)
    closed_M = parts.closings_M != NO_ID
    closings = (places_M + opened_M + sizes_M)[closed_M]
    tokens_L[closings] = parts.closings_M[closed_M]
    weights_L[closings] = parts.is_target_M[closed_M]
    return tokens_L, weights_L, offsets
