"""Locality-sensitive hashing: documents that agree in all rows of a band are worth comparing.

Two documents of Jaccard similarity J share at least one of B bands of R rows with probability
1 - (1 - J**R)**B (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4).

Axes: D documents, K permutations, B bands, R rows of a band.
"""

import numpy as np

# Odd, and so no key is lost by multiplying; from the digits of pi.
_BASE = np.uint64(0x243F6A8885A308D3)


def band_keys(signatures_DK: np.ndarray, num_bands: int, num_rows: int) -> np.ndarray:
    """Return a 64-bit key for each band of each signature.

    Equal rows of one band give equal keys; other rows, or another band, give equal keys by
    chance only (2**-64). Keys are spread evenly over their range.

    Args:
        signatures_DK: uint32, K at least num_bands * num_rows; places after those are not used.

    Returns:
        uint64 [D, num_bands].
    """
    num_documents = len(signatures_DK)
    used = signatures_DK[:, : num_bands * num_rows]
    rows_RDB = used.reshape(num_documents, num_bands, num_rows).transpose(2, 0, 1)
    keys_DB = np.tile(_scramble(np.arange(1, num_bands + 1, dtype=np.uint64)), (num_documents, 1))
    for rows_DB in rows_RDB:
        keys_DB = _scramble((keys_DB ^ rows_DB) * _BASE)
    return keys_DB


def candidate_probability(
    similarity: float | np.ndarray, num_bands: int, num_rows: int
) -> float | np.ndarray:
    """Return the probability that two documents of this Jaccard similarity share a band."""
    return 1 - (1 - similarity**num_rows) ** num_bands


def _scramble(keys: np.ndarray) -> np.ndarray:
    """Apply a bijection of 64 bits: the high half of a product reaches the low half."""
    keys = (keys ^ (keys >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return keys ^ (keys >> np.uint64(29))
