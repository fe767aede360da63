"""Log of the documents that a stage drops, with the reason of each, and their counts."""

from pathlib import Path
from typing import Any

from jaxgpt.corpus.documents.document import RemovedWriter
from jaxgpt.corpus.stats.counts import DocumentCounts, make_sample

REMOVED_NAME = "removed.jsonl.zst"


class DropLog:
    """Lists the documents that a task of a later stage than reading removes, and counts them."""

    def __init__(self, folder: Path, stage: str) -> None:
        self._stage = stage
        self._writer = RemovedWriter(folder / REMOVED_NAME)
        self._tally = DocumentCounts()

    def __enter__(self) -> "DropLog":
        self._writer.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._writer.__exit__(*exception)

    def drop(
        self,
        *,
        id: str,
        location: str,
        source: str,
        reason: str,
        num_bytes: int,
        text: str = "",
        stage: str = "",
        **more: Any,
    ) -> None:
        """Log and count a dropped document. Args:
        num_bytes: of its text, as UTF-8.
        text: its text, for the report's samples.
        stage: where it differs from the log's.
        more: for `removed.jsonl.zst`, such as `kept_id`, `similarity`, and the content `hash`
            of the text as it was read, in hexadecimal; `detail` is also shown with the samples.
        """
        stage = stage or self._stage
        self._writer.write(id=id, stage=stage, reason=reason, location=location, **more)
        sample = make_sample(location, str(more.get("detail", "")), text)
        self._tally.count_dropped(source, stage, reason, num_bytes, sample)

    def count_edited(self, source: str, stage: str, num_bytes: int) -> None:
        """Count a changed document, which lost `num_bytes` (or gained, if negative)."""
        self._tally.count_edited(source, stage, num_bytes)

    @property
    def counts(self) -> DocumentCounts:
        """Counts of dropped and edited documents, for `DocumentCounts.merge_later_stage`."""
        return self._tally
