"""Histograms of kept and dropped documents: length, language, compression. Bins of length are the
number of bits of the bytes; of compression, whole 5% of the size, rounded down. `extremes` are the
kept documents that compress best and least.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MEASURES = ("length", "language", "compression")
FATES = ("kept", "dropped")
EXTREMES = ("best", "least")
_NUM_EXTREMES = 3


def merge_measures(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up what was measured of several parts; the order makes no difference.

    Returns:
        JSON: for each of MEASURES and FATES documents by bin; how many documents were read and
        how many measured; and the extremes.
    """
    merged: dict[str, Any] = {
        name: sum(part[name] for part in found) for name in ("num_documents", "num_measured")
    }
    for measure in MEASURES:
        merged[measure] = {}
        for fate in FATES:
            bins: Counter[str] = Counter()
            for part in found:
                bins.update(part[measure][fate])
            merged[measure][fate] = dict(sorted(bins.items()))
    merged["extremes"] = {
        name: extreme_documents(name, [entry for part in found for entry in part["extremes"][name]])
        for name in EXTREMES
    }
    return merged


def extreme_documents(name: str, found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the documents that compress best or least; their place settles ties."""
    sign = 1 if name == "best" else -1
    return heapq.nsmallest(
        _NUM_EXTREMES, found, key=lambda entry: (sign * entry["share"], entry["location"])
    )
