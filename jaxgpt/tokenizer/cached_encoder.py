"""Text cut into units that are encoded one by one, with the ids of the whole text.

No piece of a vocabulary has two neighbouring bytes that stand side by side in none of its pieces.
So text can be cut between such bytes first: what an encoder makes of the units, one after the
other, is what it makes of the whole. Most units have been met before, and are not encoded again.
`docs/tokenizer.md` has the argument for each kind of vocabulary.

Axes: C bytes of text, U units, D different units, N ids.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import sentencepiece

# Of text: what is worked on together, and up to where a plain loop is faster.
_BATCH_BYTES = 4 << 20
_SHORT_BYTES = 1 << 13
# About 300 bytes each.
_MAX_REMEMBERED = 1 << 17
_MAX_REMEMBERED_CHARACTERS = 64


class UnitEncoder:
    """Encodes text with a vocabulary, by units."""

    def __init__(
        self,
        processor: sentencepiece.SentencePieceProcessor,
        pieces: Sequence[bytes],
        fixed: Mapping[str, Sequence[int]],
    ) -> None:
        """Find out where text may be cut.

        Args:
            processor: encodes one unit.
            pieces: the texts of all pieces that encoding may look at.
            fixed: characters that `processor` must not see, and their ids.
        """
        self._processor = processor
        self._fixed = {character: list(ids) for character, ids in fixed.items()}
        self._fixed_bytes = [character.encode() for character in fixed]
        self._is_cut = _cuts_between(pieces)
        # Units met of late, and before that.
        self._recent: dict[str, list[int]] = {}
        self._older: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text.

        Raises:
            UnicodeEncodeError: it has a lone surrogate.
        """
        data = text.encode()
        if len(data) > _SHORT_BYTES:
            return self._encode_batch([data])[0].tolist()
        starts_U1 = self._unit_starts(data, [0, len(data)]).tolist()
        units = [data[start:stop].decode() for start, stop in itertools.pairwise(starts_U1)]
        return list(itertools.chain.from_iterable(self._ids_of(units)))

    def encode_many(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of some texts, one after the other.

        Returns:
            int32 [N] and int64 offsets [number of texts + 1].

        Raises:
            UnicodeEncodeError: a text has a lone surrogate.
        """
        ids, counts = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        batch: list[bytes] = []
        num_bytes = 0
        for text in texts:
            batch.append(text.encode())
            num_bytes += len(batch[-1])
            if num_bytes >= _BATCH_BYTES:
                for found, each in zip((ids, counts), self._encode_batch(batch), strict=True):
                    found.append(each)
                batch, num_bytes = [], 0
        for found, each in zip((ids, counts), self._encode_batch(batch), strict=True):
            found.append(each)
        return np.concatenate(ids), np.concatenate([[0], np.cumsum(np.concatenate(counts))])

    def _encode_batch(self, texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of some texts, int32 [N], and how many each has, int64."""
        # Only here: it takes a while to import, and short texts do without.
        import pyarrow as pa

        data = b"".join(texts)
        ends = np.cumsum([0, *map(len, texts)])
        starts_U1 = self._unit_starts(data, ends)
        if len(starts_U1) < 2:
            return np.zeros(0, np.int32), np.zeros(len(texts), np.int64)
        units = pa.LargeStringArray.from_buffers(
            len(starts_U1) - 1, pa.py_buffer(starts_U1), pa.py_buffer(data)
        )
        encoded = units.dictionary_encode()
        ids_of_D = self._ids_of(encoded.dictionary.to_pylist())
        which_U = encoded.indices.to_numpy()
        ids_N, ends_U = _concatenate(ids_of_D, which_U)
        ends_U1 = np.concatenate([[0], ends_U])
        return ids_N, np.diff(ends_U1[np.searchsorted(starts_U1, ends)])

    def _unit_starts(self, data: bytes, ends: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the starts of units and the end of `data`, int64 [U + 1]; they include `ends`."""
        codes_C = np.frombuffer(data, np.uint8)
        is_start = np.zeros(len(codes_C) + 1, bool)
        if len(codes_C) > 1:
            pairs = codes_C[:-1].astype(np.uint16)
            pairs <<= 8
            pairs |= codes_C[1:]
            is_start[1:-1] = self._is_cut[pairs]
        for character in self._fixed_bytes:
            place = data.find(character)
            while place >= 0:
                is_start[place] = is_start[place + len(character)] = True
                place = data.find(character, place + len(character))
        is_start[ends] = True
        return np.flatnonzero(is_start)

    def _ids_of(self, units: Sequence[str]) -> list[list[int]]:
        """Return the ids of each of these units."""
        recent, older = self._recent, self._older
        found: list[list[int]] = []
        missing: list[int] = []
        for unit in units:
            ids = recent.get(unit)
            if ids is None:
                ids = self._fixed.get(unit) or older.get(unit)
                if ids is None:
                    missing.append(len(found))
                    ids = []
                elif len(recent) < _MAX_REMEMBERED:
                    recent[unit] = ids
            found.append(ids)
        if missing:
            new = [units[place] for place in missing]
            encoded = self._processor.encode(new, num_threads=1)
            for place, unit, ids in zip(missing, new, encoded, strict=True):
                found[place] = ids
                if len(unit) <= _MAX_REMEMBERED_CHARACTERS and len(recent) < _MAX_REMEMBERED:
                    recent[unit] = ids
        if len(recent) >= _MAX_REMEMBERED:
            self._recent, self._older = {}, recent
        return found


def _cuts_between(pieces: Sequence[bytes]) -> np.ndarray:
    """Return whether text may be cut between two bytes, by first * 256 + second: bool [65536]."""
    is_cut = np.ones((256, 256), bool)
    codes = np.frombuffer(b"".join(pieces), np.uint8)
    inside = np.ones(len(codes), bool)
    ends = np.cumsum(list(map(len, pieces)), dtype=np.int64)
    inside[ends[ends > 0] - 1] = False
    firsts = np.flatnonzero(inside)
    is_cut[codes[firsts], codes[firsts + 1]] = False
    # Never within a character.
    is_cut[:, 0x80:0xC0] = False
    return is_cut.ravel()


def _concatenate(
    ids_of_D: Sequence[Sequence[int]], which_U: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of units `which_U`, concatenated, int32 [N], and the end of each."""
    counts_D = np.fromiter(map(len, ids_of_D), np.int32, len(ids_of_D))
    flat = np.fromiter(itertools.chain.from_iterable(ids_of_D), np.int32, int(counts_D.sum()))
    starts_D = np.cumsum(counts_D, dtype=np.int32) - counts_D
    counts_U = counts_D[which_U]
    ends_U = np.cumsum(counts_U, dtype=np.int64)
    places_N = np.repeat(starts_D[which_U] - (ends_U - counts_U), counts_U)
    places_N += np.arange(len(places_N))
    return flat[places_N], ends_U
