"""The stages that judge and edit documents one by one: filters, privacy, decontamination.

They store the remaining documents again. A document keeps the hash and the place in the dataset
that its text gave it when it was read, whatever is edited in it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from jaxgpt.config import to_dict
from jaxgpt.corpus.documents.document_files import FILE_NAME, SCHEMA, DocumentBatch, write_options
from jaxgpt.corpus.documents.partition import Partition
from jaxgpt.corpus.execution.tasks import TaskRunner
from jaxgpt.corpus.stages.documents import Documents
from jaxgpt.corpus.stats.drop_log import DropLog
from jaxgpt.corpus.stats.stage_result import stage_result
from jaxgpt.corpus.text.batch import Judged, Step, TextBatch
from jaxgpt.storage.durable import hash_file

EMPTIED = "empty_after_edits"


class Steps(Protocol):
    """A config of steps."""

    @property
    def files_read(self) -> tuple[str, ...]:
        """Files that the steps depend on, in addition to the config itself."""
        ...

    def build(self) -> tuple[Step, ...]:
        """Return the steps, in order."""
        ...


def filter_documents(runner: TaskRunner, documents: Documents, filters: Steps) -> Documents:
    """Drop the documents that are not good enough."""
    return _apply(runner, documents, [filters], "filtering documents", "filter_documents")


def edit_documents(runner: TaskRunner, documents: Documents, edits: Sequence[Steps]) -> Documents:
    """Take private data out of documents, and drop those with benchmark texts."""
    return _apply(runner, documents, edits, "editing documents", "edit_documents")


def _apply(
    runner: TaskRunner, documents: Documents, configs: Sequence[Steps], title: str, name: str
) -> Documents:
    """Apply steps to documents; without any steps they stay as they are."""
    if not any(config.build() for config in configs):
        return documents
    identity = [[to_dict(config), [*map(hash_file, config.files_read)]] for config in configs]
    tasks = documents.tasks(lambda each: (each, configs), identity)
    return documents.rewritten_by(runner.run(title, apply_steps, tasks, name))


def apply_steps(
    folder: Path,
    advance: Callable[[int], None],
    partition: Partition,
    configs: Sequence[Steps],
) -> dict[str, Any]:
    """Write the documents that pass, edited; list the others."""
    steps = [step for config in configs for step in config.build()]
    counts: dict[str, dict[str, int]] = {}
    batches: list[DocumentBatch] = []
    with (
        pa.OSFile(str(folder / FILE_NAME), "wb") as file,
        pa.ipc.new_file(file, SCHEMA, options=write_options()) as writer,
        DropLog(folder, "") as log,
    ):
        for batch in partition.batches():
            rows = _Rows(batch)
            for step in steps:
                judged = step(rows.texts)
                stage_counts = counts.setdefault(step.stage, {})
                for kind, count in judged.counts.items():
                    stage_counts[kind] = stage_counts.get(kind, 0) + count
                rows.apply(judged, step.stage, log)
            if len(rows.kept):
                writer.write_batch(rows.to_batch())
                batches.append(
                    DocumentBatch(
                        partition=partition.number,
                        num_rows=len(rows.kept),
                        num_bytes=sum(rows.num_bytes[row] for row in rows.kept),
                    )
                )
            advance(sum(batch.column("num_bytes").to_pylist()))
    return stage_result(log.counts, batches, counts)


class _Rows:
    """The documents of a batch on their way through the steps.

    Attributes:
        kept: rows that are still in.
        texts: their texts as they are now.
        num_bytes: of every row's text as it is now.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch
        self._is_edited = False
        self.num_bytes: list[int] = batch.column("num_bytes").to_pylist()
        self.kept = list(range(batch.num_rows))
        self.texts = TextBatch(
            texts=batch.column("text").to_pylist(), urls=batch.column("url").to_pylist()
        )

    def apply(self, judged: Judged, stage: str, log: DropLog) -> None:
        """Edit texts and drop documents as a step has said."""
        reasons = list(judged.reasons)
        if judged.texts is not None:
            self._edit(judged.texts, reasons, stage, log)
        for place, (row, reason) in enumerate(zip(self.kept, reasons, strict=True)):
            if reason is not None:
                self._drop(row, self.texts.texts[place], reason, stage, log)
        stays = [place for place, reason in enumerate(reasons) if reason is None]
        if len(stays) < len(reasons):
            self.kept = [self.kept[place] for place in stays]
            # Takes along what has been computed of the texts.
            self.texts = self.texts.select(stays)

    def to_batch(self) -> pa.RecordBatch:
        """Return the rows that are left, as they are stored."""
        batch = self._batch.take(pa.array(self.kept, pa.int64()))
        if not self._is_edited:
            return batch
        num_bytes = [self.num_bytes[row] for row in self.kept]
        texts = pa.array(list(self.texts.texts), pa.large_string())
        batch = batch.set_column(SCHEMA.names.index("text"), "text", texts)
        place = SCHEMA.names.index("num_bytes")
        return batch.set_column(place, "num_bytes", pa.array(num_bytes, pa.int64()))

    def _edit(
        self, texts: Sequence[str], reasons: list[str | None], stage: str, log: DropLog
    ) -> None:
        sources = self._batch.column("source")
        is_edited = False
        for place, (row, text) in enumerate(zip(self.kept, texts, strict=True)):
            if text == self.texts.texts[place]:
                continue
            num_bytes = len(text.encode())
            is_edited = True
            log.count_edited(sources[row].as_py(), stage, self.num_bytes[row] - num_bytes)
            self.num_bytes[row] = num_bytes
            if not text.strip() and reasons[place] is None:
                reasons[place] = EMPTIED
        if is_edited:
            self._is_edited = True
            self.texts = TextBatch(texts=texts, urls=self.texts.urls)

    def _drop(self, row: int, text: str, reason: str, stage: str, log: DropLog) -> None:
        column = self._batch.column
        log.drop(
            id=column("id")[row].as_py(),
            location=column("location")[row].as_py(),
            source=column("source")[row].as_py(),
            reason=reason,
            num_bytes=self.num_bytes[row],
            text=text,
            stage=stage,
            hash=column("hash")[row].as_py().hex(),
        )
