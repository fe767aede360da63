"""Examples for the report: some kept documents, with those that were removed for them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

_MAX_EXAMPLES = 5
_MAX_REMOVED = 4


def choose_examples(
    members: pa.Table, kept_N: np.ndarray, similarity_N: np.ndarray
) -> list[dict[str, Any]]:
    """Choose the largest families and a few drawn at random, as JSON.

    A family is a kept document and all that were removed for it; of these the least similar ones
    are shown. What is drawn depends on the content of the kept documents alone.

    Args:
        members: documents with their hash, id, location, source and the beginning of their text.
        kept_N: the row that is kept for each row.
        similarity_N: with that one.
    """
    removed = np.flatnonzero(kept_N != np.arange(len(kept_N)))
    kept, sizes = np.unique(kept_N[removed], return_counts=True)
    hashes = members["hash"].take(kept).to_pylist()
    order = sorted(range(len(kept)), key=lambda place: (-sizes[place], hashes[place]))
    drawn = sorted(range(len(kept)), key=lambda place: hashes[place])
    examples = []
    for place in sorted({*order[:_MAX_EXAMPLES], *drawn[:_MAX_EXAMPLES]}):
        rows = removed[kept_N[removed] == kept[place]]
        rows = rows[np.lexsort((members["location"].take(rows).to_numpy(), similarity_N[rows]))]
        examples.append(
            {
                "hash": hashes[place].hex(),
                "num_removed": int(sizes[place]),
                "kept": _describe(members, int(kept[place])),
                "removed": [
                    {**_describe(members, int(row)), "similarity": float(similarity_N[row])}
                    for row in rows[:_MAX_REMOVED]
                ],
            }
        )
    return examples


def merge_examples(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choose in the same way among the examples of several groups; the largest first."""
    by_size = sorted(found, key=lambda example: (-example["num_removed"], example["hash"]))
    drawn = sorted(by_size, key=lambda example: example["hash"])
    chosen = {example["hash"] for example in (*by_size[:_MAX_EXAMPLES], *drawn[:_MAX_EXAMPLES])}
    return [example for example in by_size if example["hash"] in chosen]


def _describe(members: pa.Table, row: int) -> dict[str, Any]:
    return {name: members[name][row].as_py() for name in ("id", "location", "source", "text")}
