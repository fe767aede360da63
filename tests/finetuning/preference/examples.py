"""What examples bring with them, on the tokens of packed rows."""

import numpy as np


def bring(values_BS: np.ndarray, segment_ids_BT: np.ndarray) -> np.ndarray:
    """Return the values of both sequences of an example on all of its tokens, [B, T, 2]."""
    pairs_BP2 = values_BS.reshape(len(values_BS), -1, 2).astype(np.float32)
    examples_BT = np.maximum(segment_ids_BT - 1, 0) // 2
    return np.take_along_axis(pairs_BP2, examples_BT[..., None], axis=1)
