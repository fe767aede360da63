"""The stage that applies the selection: one mask and one drop log per partition."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.corpus.dedup.near.sign import SignedPartition
from jaxgpt.corpus.dedup.near.verify import read_removed
from jaxgpt.corpus.documents.partition import KEPT_NAME
from jaxgpt.corpus.stats.counts import DocumentCounts
from jaxgpt.corpus.stats.drop_log import DropLog
from jaxgpt.corpus.stats.stage_result import stage_result
from jaxgpt.storage.array_files import save_array

NEAR_DUPLICATES_STAGE = "near_duplicates"
NEAR_DUPLICATE = "near_duplicate"
_MIN_DOCUMENTS = 20
_SHARE = 0.5


def settle_partition(
    folder: Path,
    advance: Callable[[int], None],
    signed: SignedPartition,
    verified: Sequence[Path],
) -> dict[str, Any]:
    """Write which rows of the partition are kept (bool), and the removed documents."""
    is_kept = np.ones(signed.num_documents, bool)
    with DropLog(folder, NEAR_DUPLICATES_STAGE) as log:
        for each in verified:
            for document in read_removed(each, signed.first, signed.stop).to_pylist():
                is_kept[document.pop("document") - signed.first] = False
                detail = f"{document['similarity']:.3f} like {document['kept_location']}"
                document["hash"] = document["hash"].hex()
                log.drop(reason=NEAR_DUPLICATE, detail=detail, **document)
            advance(0)
    save_array(folder / KEPT_NAME, is_kept)
    return stage_result(log.counts)


def find_depleted(tally: DocumentCounts) -> list[str]:
    """Return a sentence for each large source that lost more than half of its documents.

    Args:
        tally: of the stages up to the removal of near duplicates.
    """
    found = []
    for name, source in sorted(tally.sources.items()):
        num_removed = source.dropped[NEAR_DUPLICATE]
        num_documents = source.read - source.dropped.total() + num_removed
        if num_documents >= _MIN_DOCUMENTS and num_removed > _SHARE * num_documents:
            found.append(
                f"{name} loses {num_removed} of {num_documents} documents as near duplicates"
            )
    return found
