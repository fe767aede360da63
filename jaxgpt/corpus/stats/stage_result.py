"""The one schema of results: what a task that handles documents says it has done."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.corpus.documents.document_files import DocumentBatch
from jaxgpt.corpus.stats.counts import DocumentCounts


def stage_result(
    counts: DocumentCounts,
    batches: Sequence[DocumentBatch] = (),
    steps: Mapping[str, Mapping[str, int]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return the result of a task that reads, drops, edits, writes or encodes documents.

    Args:
        counts: what the task counted.
        batches: where the documents are that it wrote.
        steps: what filters and edits counted, by their stage.
        more: what only this stage has to say.
    """
    return {
        "counts": counts.to_json(),
        "batches": [dataclasses.astuple(batch) for batch in batches],
        "steps": steps or {},
        **more,
    }
