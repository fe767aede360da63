"""The name that was probably meant, where a dataset does not have the one that was given."""

import heapq
import itertools
import os

from jaxgpt.corpus.dataset.listings import read_listing
from jaxgpt.corpus.dataset.stored_documents import stored_documents
from jaxgpt.corpus.documents.splits import SPLITS
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import did_you_mean

_MAX_SIMILAR_NAMES = 50


def suggest_name(dataset: TokenDataset, column: str, value: str) -> str:
    """Return the closest name that the dataset has in a column, as a half-sentence.

    Args:
        column: `id`, `location`, `source` or `reason`.
    """
    if column == "reason":
        return did_you_mean(value, dataset.manifest.get("counts", {}).get("dropped", ()))
    if column == "source":
        return did_you_mean(value, (one["name"] for one in dataset.manifest.get("sources", ())))

    def num_equal_ends(name: str) -> int:
        """Return how many characters at both ends are equal, a cheap measure of similarity."""
        pairs = ([name, value], [name[::-1], value[::-1]])
        # Characters, not components of paths, are to be compared.
        return sum(len(os.path.commonprefix(pair)) for pair in pairs)  # noqa: RUF071

    kept = (
        getattr(document, column)
        for split in SPLITS
        for document in stored_documents(dataset, split)
    )
    removed = (entry[column] for entry in read_listing(dataset.directory / REMOVED_NAME))
    names = itertools.chain(kept, removed)
    return did_you_mean(value, heapq.nlargest(_MAX_SIMILAR_NAMES, names, key=num_equal_ends))
