"""The characters of many documents at once, as arrays of code points.

Axes: C code points, D documents.
"""

import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np

# Code points that are looked at together; the arrays for them stay in the processor's cache.
_CHUNK_CHARACTERS = 1 << 18
# Where Unicode has characters, now and in any version to come; the planes between have no plan, and
# those from U+F0000 are for private use: what is true of one of these code points is true of all.
_ASSIGNED = ((0, 0x40000), (0xE0000, 0xE1000))
_FIRST_EMPTY = 0x40000


def chunks(texts: Sequence[str]) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield documents, their code points joined by newlines, and where each begins.

    A document longer than a chunk comes alone and whole.
    """
    first, size, starts = 0, 0, []
    for number, text in enumerate(texts):
        if starts and size + len(text) > _CHUNK_CHARACTERS:
            yield slice(first, number), code_points("\n".join(texts[first:number])), _array(starts)
            first, size, starts = number, 0, []
        starts.append(size)
        size += len(text) + 1
    if starts:
        yield slice(first, len(texts)), code_points("\n".join(texts[first:])), _array(starts)


def code_points(text: str) -> np.ndarray:
    """Return the code points: uint8 [C] for ASCII, else uint32 [C]."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def table_of(kind_of: Callable[[str], int]) -> np.ndarray:
    """Return the table of `kind_of` for each character: uint8 [0x110000]."""
    kinds = np.full(sys.maxunicode + 1, kind_of(chr(_FIRST_EMPTY)), np.uint8)
    for first, stop in _ASSIGNED:
        kinds[first:stop] = [*map(kind_of, map(chr, range(first, stop)))]
    return kinds


def sums_of(values_C: np.ndarray, starts_D: np.ndarray) -> np.ndarray:
    """Sum bool values over the part of each document: int64 [D]; starts ascend."""
    if not len(starts_D):
        return np.zeros(0, np.int64)
    ends_D = np.append(starts_D[1:], len(values_C))
    total = np.concatenate([[0], np.cumsum(values_C, dtype=np.int64)])
    return total[ends_D] - total[starts_D]


def _array(starts: list[int]) -> np.ndarray:
    return np.array(starts, np.int64)
