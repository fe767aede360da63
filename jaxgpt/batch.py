"""`Batch`: the one type between data and training.

Axes: B rows (global batch), T tokens of a row (time).
Plain arrays, NumPy or JAX; this file imports neither library's transformations.
"""

from typing import Any, NamedTuple


class Batch(NamedTuple):
    """Rows of tokens with what is needed to predict each next one.

    Attributes:
        tokens_BT: int32, the input ids.
        targets_BT: int32, the id that follows each input within its document.
        segment_ids_BT: int32, 0 for padding, otherwise equal exactly for tokens of one document
            within a row. Attention never crosses segments. None if each row is one segment.
        positions_BT: int32, position of each token within its segment, from 0.
        loss_weights_BT: float32, weight of each target; 0 for padding and for targets that are
            not predicted (a document's first token is no target of the one before it).
        extras: what an objective needs besides, by name, each [B, T, ...]; None: nothing.
    """

    tokens_BT: Any
    targets_BT: Any
    segment_ids_BT: Any
    positions_BT: Any
    loss_weights_BT: Any
    extras: dict[str, Any] | None = None
