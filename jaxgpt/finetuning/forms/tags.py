"""Tags: spans of a text as one number per token (BIO; Ramshaw and Marcus 1995).

    -1           no text, or not to be marked
    0            outside of every span
    1 + 2 k      first token of a span of label k
    2 + 2 k      further token of it

Tags that no spans give are read as conlleval and seqeval do: a further token that does not follow
one of its label begins a span.

Axes: B rows, T tokens of a row or a text, K labels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

UNMARKED, OUTSIDE = -1, 0


def num_tags(num_labels: int) -> int:
    """Return the number of tags."""
    return 1 + 2 * num_labels


def mark_spans(
    tags_T: np.ndarray, bytes_T: np.ndarray, spans: Sequence[tuple[int, int, int]]
) -> int:
    """Write the tags of a text: a span has all tokens that it touches.

    A token that two spans touch belongs to the first.

    Args:
        tags_T: int32, written where spans are.
        bytes_T: bytes of each token of the text.
        spans: (first byte, byte after the last, label), in order, of which none overlap.

    Returns:
        The spans that have no token.
    """
    stops_T = np.cumsum(bytes_T)
    starts_T, free, num_lost = stops_T - bytes_T, 0, 0
    for start, stop, label in spans:
        first = max(free, int(np.searchsorted(stops_T, start, side="right")))
        free = max(first, int(np.searchsorted(starts_T, stop, side="left")))
        tags_T[first:free] = 2 + 2 * label
        tags_T[first : min(first + 1, free)] = 1 + 2 * label
        num_lost += first == free
    return num_lost


def renumber(tags: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return tags in which label k is `numbers[k]`, int32."""
    moved = np.stack([1 + 2 * numbers, 2 + 2 * numbers], 1).ravel()
    return np.concatenate([[UNMARKED, OUTSIDE], moved]).astype(np.int32)[tags + 1]


class _Spans(NamedTuple):
    """Spans in rows.

    Attributes:
        labels_BT: int32, k + 1 for tokens of spans of label k, 0 outside.
        is_first_BT: whether a span begins.
        last_BT: int32, place of the last token of the span that a token is in.
    """

    labels_BT: jax.Array
    is_first_BT: jax.Array
    last_BT: jax.Array


def count_spans(gold_BT: jax.Array, predicted_BT: jax.Array, num_labels: int) -> jax.Array:
    """Return the numbers of spans that are there, that are predicted, and that are both.

    A predicted span is right if it has the label and exactly the tokens of one that is there.

    Args:
        gold_BT: tags, `OUTSIDE` for tokens that are no text.
        predicted_BT: the same.
        num_labels: K.

    Returns:
        float32 [K, 3].
    """
    gold, predicted = _find_spans(gold_BT), _find_spans(predicted_BT)
    is_right_BT = (
        gold.is_first_BT
        & predicted.is_first_BT
        & (gold.labels_BT == predicted.labels_BT)
        & (gold.last_BT == predicted.last_BT)
    )
    counted = (
        (gold.labels_BT, gold.is_first_BT),
        (predicted.labels_BT, predicted.is_first_BT),
        (gold.labels_BT, is_right_BT),
    )
    names_K = jnp.arange(1, num_labels + 1)
    sums = [
        jnp.sum((labels_BT[..., None] == names_K) & is_counted_BT[..., None], (0, 1))
        for labels_BT, is_counted_BT in counted
    ]
    return jnp.stack(sums, axis=-1).astype(jnp.float32)


def _find_spans(tags_BT: jax.Array) -> _Spans:
    labels_BT = (tags_BT + 1) // 2
    outside_B1 = jnp.zeros_like(labels_BT[:, :1])
    before_BT = jnp.concatenate([outside_B1, labels_BT[:, :-1]], axis=1)
    is_first_BT = (labels_BT > 0) & ((tags_BT % 2 == 1) | (labels_BT != before_BT))
    goes_on_BT = (labels_BT > 0) & ~is_first_BT
    is_last_BT = ~jnp.concatenate([goes_on_BT[:, 1:], outside_B1 > 0], axis=1)
    places_T = jnp.arange(tags_BT.shape[1], dtype=jnp.int32)
    last_BT = jnp.where(is_last_BT, places_T, tags_BT.shape[1])
    return _Spans(labels_BT, is_first_BT, jax.lax.cummin(last_BT, axis=1, reverse=True))
