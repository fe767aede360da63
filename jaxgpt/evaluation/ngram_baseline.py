"""A baseline that needs no training run: an interpolated Witten-Bell model of bytes.

It predicts each byte from at most five before it, by counting. A neural model that does not beat
it has learned less than short-range statistics. Pure NumPy on bytes; knows no tokenizer.

With c(h, w) the count of byte w after context h, c(h) the sum and t(h) the number of different
bytes seen after h (Witten and Bell, 1991; Chen and Goodman, 1998, section 2.4):

    P(w | h) = (c(h, w) + t(h) P(w | h')) / (c(h) + t(h))

h' is h without its oldest byte; below the empty context every byte has 1/256. A context that was
never seen has c = t = 0 and leaves P(w | h') as it is.
"""

from collections.abc import Iterable, Iterator

import numpy as np

MAX_CONTEXT_BYTES = 5
_CHUNK_BYTES = 4 << 20
# A gram, a context and the byte after it, is one uint64: its last byte lowest, at most six in all.
# A table holds different grams, sorted, and the count of each.
_Table = tuple[np.ndarray, np.ndarray]


class WittenBellModel:
    """Counts of all byte sequences up to `context_bytes + 1` long that lie within one document.

    At a document's start the context is as long as what stands before.

    Args:
        context_bytes: length of the longest context, 0 to 5.
    """

    def __init__(self, context_bytes: int = MAX_CONTEXT_BYTES) -> None:
        if not 0 <= context_bytes <= MAX_CONTEXT_BYTES:
            raise ValueError(f"context_bytes = {context_bytes}; allowed: 0 to {MAX_CONTEXT_BYTES}")
        self._tables = [_Order.empty() for _ in range(context_bytes + 1)]

    def fit(self, documents: Iterable[bytes]) -> "WittenBellModel":
        """Add the counts of `documents` to those already there; returns self.

        Memory grows with the number of different sequences, not with the length of the text.
        """
        for chunk in _chunks(documents):
            grams = _grams_by_order(chunk, len(self._tables))
            for order, table in enumerate(grams):
                self._tables[order] = self._tables[order].plus(table)
        return self

    def num_bits(self, documents: Iterable[bytes]) -> tuple[float, int]:
        """Return the code length of `documents` in bits, and their number of bytes.

        The end of a document is not predicted.
        """
        bits, num_bytes = 0.0, 0
        for chunk in _chunks(documents):
            for length, (grams, counts) in enumerate(_longest_grams(chunk, len(self._tables))):
                bits -= float(np.dot(counts, np.log2(self._probabilities(grams, length))))
                num_bytes += int(counts.sum())
        return bits, num_bytes

    def bits_per_byte(self, documents: Iterable[bytes]) -> float:
        """Return the mean code length of a byte of `documents`.

        Raises:
            ValueError: there are no bytes to predict.
        """
        bits, num_bytes = self.num_bits(documents)
        if num_bytes == 0:
            raise ValueError("no bytes to predict")
        return bits / num_bytes

    def next_byte_probabilities(self, context: bytes) -> np.ndarray:
        """Return the probability of each of the 256 bytes after `context`, float64 [256]."""
        context = context[max(0, len(context) - len(self._tables) + 1) :]
        start = int.from_bytes(context, "big") << 8
        grams = np.arange(start, start + 256, dtype=np.uint64)
        return self._probabilities(grams, len(context))

    def _probabilities(self, grams: np.ndarray, context_bytes: int) -> np.ndarray:
        """Return P(last byte | the `context_bytes` before it) of each gram, float64."""
        probabilities = np.full(len(grams), 1 / 256)
        for order in range(context_bytes + 1):
            count, total, distinct = self._tables[order].look_up(_suffix(grams, order + 1))
            seen = total > 0
            mixed = (count + distinct * probabilities) / np.where(seen, total + distinct, 1)
            probabilities = np.where(seen, mixed, probabilities)
        return probabilities


class _Order:
    """The counts of one order: sorted grams of n bytes, and sums over those of one context."""

    def __init__(self, grams: np.ndarray, counts: np.ndarray) -> None:
        self._grams, self._counts = grams, counts
        contexts = grams >> np.uint64(8)
        starts = np.flatnonzero(np.diff(contexts, prepend=~contexts[:1]))
        self._contexts = contexts[starts]
        self._totals = np.add.reduceat(counts, starts) if len(starts) else counts
        self._distinct = np.diff(starts, append=len(grams))

    @classmethod
    def empty(cls) -> "_Order":
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.int64))

    def plus(self, table: _Table) -> "_Order":
        grams, counts = table
        both = np.concatenate([self._grams, grams]), np.concatenate([self._counts, counts])
        return _Order(*_summed(*both))

    def look_up(self, grams: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return c(h, w), c(h) and t(h) of each gram hw; zeros for what was never seen."""
        in_grams, gram_places = _find(self._grams, grams)
        in_contexts, context_places = _find(self._contexts, grams >> np.uint64(8))
        count, total, distinct = (np.zeros(len(grams), np.int64) for _ in range(3))
        count[in_grams] = self._counts[gram_places]
        total[in_contexts] = self._totals[context_places]
        distinct[in_contexts] = self._distinct[context_places]
        return count, total, distinct


def _chunks(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Group documents into lists of about `_CHUNK_BYTES`; a longer document stands alone."""
    chunk: list[bytes] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document)
        if size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _longest_grams(documents: list[bytes], num_orders: int) -> Iterator[_Table]:
    """Yield, by context length, the grams of those bytes for which no longer context exists.

    Each byte of the documents is the last of exactly one gram.
    """
    text = np.frombuffer(b"".join(documents), dtype=np.uint8)
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    available = np.minimum(np.arange(len(text)) - starts, num_orders - 1).astype(np.uint8)
    grams = np.zeros(len(text), dtype=np.uint64)
    for distance in range(min(num_orders, len(text))):
        reaches = text[: len(text) - distance].astype(np.uint64) << np.uint64(8 * distance)
        grams[distance:] |= reaches
    for context_bytes in range(num_orders):
        # Bytes of the document before, in the high places, are cut off here.
        selected = _suffix(grams[available == context_bytes], context_bytes + 1)
        yield _summed(selected, np.ones(len(selected), np.int64))


def _grams_by_order(documents: list[bytes], num_orders: int) -> list[_Table]:
    """Return the counts of all grams of 1 to `num_orders` bytes, by length.

    A gram counts for its own order and, cut, for every shorter one, so each order is a sum over
    the few different grams of the order above, not over the text.
    """
    longest = list(_longest_grams(documents, num_orders))
    tables = [longest[-1]]
    for order in reversed(range(num_orders - 1)):
        grams, counts = tables[-1]
        grams = np.concatenate([_suffix(grams, order + 1), longest[order][0]])
        tables.append(_summed(grams, np.concatenate([counts, longest[order][1]])))
    return tables[::-1]


def _suffix(grams: np.ndarray, num_bytes: int) -> np.ndarray:
    return grams & np.uint64((1 << (8 * num_bytes)) - 1)


def _summed(grams: np.ndarray, counts: np.ndarray) -> _Table:
    """Sort grams and add up the counts of equal ones."""
    order = np.argsort(grams)
    grams, counts = grams[order], counts[order]
    starts = np.flatnonzero(np.diff(grams, prepend=~grams[:1]))
    if not len(starts):
        return grams, counts
    return grams[starts], np.add.reduceat(counts, starts)


def _find(sorted_values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which of `wanted` occur (bool), and where each of those stands."""
    if not len(sorted_values):
        return np.zeros(len(wanted), dtype=bool), np.zeros(0, np.int64)
    places = np.minimum(np.searchsorted(sorted_values, wanted), len(sorted_values) - 1)
    found = sorted_values[places] == wanted
    return found, places[found]
