"""The stage that settles: what the elections decided, as one mask and one list a partition."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.corpus.array_files import save_array
from jaxgpt.corpus.near_duplicates.signing import SignedPartition
from jaxgpt.corpus.near_duplicates.verifying import read_removed
from jaxgpt.corpus.partition import KEPT_NAME
from jaxgpt.corpus.removal import RemovalLog

STAGE = "near_duplicates"
REASON = "near_duplicate"


def settle_partition(
    folder: Path,
    advance: Callable[[int], None],
    signed: SignedPartition,
    verified: Sequence[Path],
) -> dict[str, Any]:
    """Kernel: write which rows of the partition are kept (bool), and the removed documents."""
    is_kept = np.ones(signed.num_documents, bool)
    with RemovalLog(folder, STAGE) as log:
        for each in verified:
            for document in read_removed(each, signed.first, signed.stop).to_pylist():
                is_kept[document.pop("document") - signed.first] = False
                detail = f"{document['similarity']:.3f} like {document['kept_location']}"
                document["hash"] = document["hash"].hex()
                log.drop(reason=REASON, detail=detail, **document)
            advance(0)
    save_array(folder / KEPT_NAME, is_kept)
    return log.result()
