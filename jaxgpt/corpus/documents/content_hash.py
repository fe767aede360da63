"""Exact duplicates: documents whose text is the same up to whitespace and Unicode composition.

Pure functions of hashes and ids; which document of a group is kept does not depend on the order
in which they were read.
"""

import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import xxhash

HASH_BYTES = 16


def content_hash(text: str) -> bytes:
    """Hash the normalised text to 128 bits: NFC, runs of whitespace as one space, ends stripped.

    Case and punctuation count. XXH3 is no cryptographic hash: it resists chance (two of 1e9
    different texts collide with probability 1e-21), not somebody who makes texts collide.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return xxhash.xxh3_128_digest(" ".join(text.split()).encode())


def choose_kept(hashes: np.ndarray, name_of: Callable[[int], Any]) -> np.ndarray:
    """Return, for every document, the row of the one that is kept for it: itself, if unique.

    Args:
        hashes: uint8 [num_documents, 16].
        name_of: what rows are compared by, such as (id, place); unique, and the smallest of a
            group is kept. Asked only for rows that have a duplicate.

    Returns:
        int64 [num_documents].

    Memory: about 60 bytes for a document.
    """
    high, low = hashes.copy().view("<u8").reshape(-1, 2).T
    order = np.lexsort((low, high))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (high[order[1:]] != high[order[:-1]]) | (low[order[1:]] != low[order[:-1]])
    starts = np.flatnonzero(is_first)
    sizes = np.diff(np.append(starts, len(order)))
    kept = np.arange(len(order))
    for group in np.flatnonzero(sizes > 1):
        rows = order[starts[group] : starts[group] + sizes[group]]
        kept[rows] = min(rows, key=lambda row: name_of(int(row)))
    return kept
