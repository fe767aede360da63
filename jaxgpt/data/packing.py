"""Windows of tokens -> rows of a Batch: targets, segments, positions and weights. Pure NumPy.

This file knows nothing of files, order or mixtures; it turns arrays into arrays.

Axes: B rows, T tokens of a row, W = T + 1 tokens of a window (each one but the last is an input,
each one but the first is a target).
"""

import numpy as np

from jaxgpt.batch import Batch


def make_rows(
    tokens_BW: np.ndarray,
    starts_BW: np.ndarray,
    lengths_B: np.ndarray | None = None,
    mask_documents: bool = True,
) -> Batch:
    """Cut windows into inputs and targets, and say which of them belong together.

    With `mask_documents`, the documents in a row are segments of their own: positions restart at
    each, attention stays inside, and a document's first token is no target, since nothing that
    the model may look at announces it. Without, a row is one running text: one segment,
    positions 0..T-1, and every token is a target.

    Args:
        tokens_BW: integer ids.
        starts_BW: bool, true where a document begins.
        lengths_B: how many ids of each window are real; all of them if None. Whatever stands
            behind them is replaced by padding: id 0, segment 0, position 0, weight 0.
        mask_documents: see above.

    Returns:
        A Batch of NumPy arrays [B, T]. A window that begins inside a document has that rest as
        its first segment, at positions from 0. Rows of one segment without padding have no
        `segment_ids_BT`.
    """
    num_rows, window = tokens_BW.shape
    length = window - 1
    index_T = np.arange(length, dtype=np.int32)
    if mask_documents:
        segment_ids_BT, positions_BT = _segments(starts_BW[:, :-1])
        loss_weights_BT = (~starts_BW[:, 1:]).astype(np.float32)
    else:
        # Without padding there is nothing to keep apart, which the fastest attention needs to know.
        whole = lengths_B is None
        segment_ids_BT = None if whole else np.ones((num_rows, length), np.int32)
        positions_BT = np.broadcast_to(index_T, (num_rows, length)).copy()
        loss_weights_BT = np.ones((num_rows, length), np.float32)
    rows = Batch(
        tokens_BT=tokens_BW[:, :-1].astype(np.int32),
        targets_BT=tokens_BW[:, 1:].astype(np.int32),
        segment_ids_BT=segment_ids_BT,
        positions_BT=positions_BT,
        loss_weights_BT=loss_weights_BT,
    )
    if lengths_B is not None:
        _pad(rows, np.asarray(lengths_B), index_T)
    return rows


def _segments(starts_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the runs of tokens between starts, per row from 1, and the tokens in each, from 0.

    Works on runs, not tokens: documents are long, so there are few.
    """
    num_rows, length = starts_BT.shape
    opens_BT = starts_BT.copy()
    opens_BT[:, 0] = True  # whatever comes first opens the first segment
    opened_at = np.flatnonzero(opens_BT).astype(np.int32)
    run_lengths = np.diff(opened_at, append=np.int32(num_rows * length))
    first_of_row = np.searchsorted(opened_at, np.arange(num_rows) * length)
    number = np.arange(len(opened_at)) - first_of_row[opened_at // length] + 1
    segment_ids = np.repeat(number.astype(np.int32), run_lengths)
    positions = np.arange(num_rows * length, dtype=np.int32) - np.repeat(opened_at, run_lengths)
    return segment_ids.reshape(num_rows, length), positions.reshape(num_rows, length)


def _pad(rows: Batch, lengths_B: np.ndarray, index_T: np.ndarray) -> None:
    """Blank, in place, the inputs at or behind each length and the targets they would have."""
    absent_BT = index_T >= lengths_B[:, None]
    rows.tokens_BT[absent_BT] = 0
    rows.segment_ids_BT[absent_BT] = 0
    rows.positions_BT[absent_BT] = 0
    unpredicted_BT = index_T + 1 >= lengths_B[:, None]
    rows.targets_BT[unpredicted_BT] = 0
    rows.loss_weights_BT[unpredicted_BT] = 0
