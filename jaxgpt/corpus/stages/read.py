"""The first stage: files are read, documents repaired and put in their partition.

Everything that happens to a record here is counted.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.corpus.cleaning.repair import RepairConfig, clean
from jaxgpt.corpus.documents.document import Document, Rejected, RemovedWriter
from jaxgpt.corpus.documents.document_files import FILE_NAME, DocumentBatch, DocumentWriter
from jaxgpt.corpus.execution.tasks import TaskResult
from jaxgpt.corpus.readers.html import extract_text, find_excess, is_page
from jaxgpt.corpus.readers.readers import FileReader
from jaxgpt.corpus.readers.sources import InputFile, SourcesConfig
from jaxgpt.corpus.readers.text_estimate import TextEstimate
from jaxgpt.corpus.stats.counts import DocumentCounts, make_sample
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from jaxgpt.storage.durable import hash_file

# Of text, roughly: a work unit of the first stage, and one of the stages after it.
PART_BYTES = 64 << 20
PARTITION_BYTES = 32 << 20
# A partition has no more documents than this, however short they are, where there are enough
# partitions: names, hashes and signatures take their memory for each document.
PARTITION_DOCUMENTS = 1 << 16
MAX_FILES_IN_PART = 1000
MAX_PARTITIONS = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadPlan:
    """What the first stage needs to know besides the files."""

    sources: SourcesConfig
    repair: RepairConfig
    num_partitions: int
    seed: int


def plan_parts(files: Sequence[InputFile]) -> list[tuple[InputFile, ...]]:
    """Group neighbouring files into parts of similar size; a file is never divided."""
    parts: list[tuple[InputFile, ...]] = []
    group: list[InputFile] = []
    num_bytes = 0
    for file in files:
        if group and (num_bytes >= PART_BYTES or len(group) == MAX_FILES_IN_PART):
            parts.append(tuple(group))
            group, num_bytes = [], 0
        group.append(file)
        num_bytes += file.estimated_text_bytes
    return [*parts, tuple(group)] if group else parts


def plan_num_partitions(text: TextEstimate) -> int:
    """Return the number of partitions for this amount of text."""
    by_bytes = text.num_bytes // PARTITION_BYTES
    by_documents = text.num_documents // PARTITION_DOCUMENTS
    return min(max(by_bytes, by_documents, 1), MAX_PARTITIONS)


def read_part(
    folder: Path, advance: Callable[[int], None], files: Sequence[InputFile], plan: ReadPlan
) -> dict[str, Any]:
    """Write the documents of `files` and what was removed; return tally and batches."""
    tally = DocumentCounts()
    read_files = []
    with (
        DocumentWriter(folder, plan.num_partitions, plan.seed) as documents,
        RemovedWriter(folder / REMOVED_NAME) as removed,
    ):
        keep = _Gate(plan, tally, removed)
        for file in files:
            reader, num_read_bytes = FileReader(file, plan.sources), 0
            for record in reader:
                if (kept := keep(record, file.path)) is not None:
                    documents.write(*kept)
                advance(reader.num_read_bytes - num_read_bytes)
                num_read_bytes = reader.num_read_bytes
            advance(file.size - num_read_bytes)
            read_files.append(_describe(file, reader))
    tally.check()
    return {
        "tally": tally.to_json(),
        "files": read_files,
        "batches": [dataclasses.astuple(batch) for batch in documents.batches],
    }


def batches_of(done: TaskResult) -> tuple[Path, list[DocumentBatch]]:
    """The file that a finished task of this stage has written, and its batches."""
    names = [field.name for field in dataclasses.fields(DocumentBatch)]
    batches = [
        DocumentBatch(**dict(zip(names, row, strict=True))) for row in done.result["batches"]
    ]
    return done.folder / FILE_NAME, batches


class _Gate:
    """Repairs records and takes the text out of pages; counts them and lists those that go."""

    def __init__(self, plan: ReadPlan, tally: DocumentCounts, removed: RemovedWriter) -> None:
        self._repair_config = plan.repair
        self._sources = plan.sources
        self._tally = tally
        self._removed = removed

    def __call__(self, record: Document | Rejected, path: str) -> tuple[Document, int] | None:
        """The repaired document and the bytes of its text; None if it must go."""
        self._tally.count_read(record)
        stage = "read" if isinstance(record, Rejected) else "repair"
        cleaned, repairs = clean(record, self._repair_config)
        self._tally.count_repaired(repairs)
        if isinstance(cleaned, Rejected):
            self._drop(cleaned, stage)
            return None
        num_bytes = len(cleaned.text.encode())
        self._tally.count_text(cleaned.source, num_bytes)
        if is_page(path, cleaned.text, self._sources.html):
            if excess := find_excess(cleaned.text, self._sources.max_page_elements):
                self._drop(_without_text(cleaned, "page_too_complex", excess), "html", num_bytes)
                return None
            text = extract_text(cleaned.text)
            if not text:
                self._drop(_without_text(cleaned, "no_text_in_page"), "html", num_bytes)
                return None
            cleaned = dataclasses.replace(cleaned, text=text)
            num_page_bytes, num_bytes = num_bytes, len(text.encode())
            self._tally.count_edited(cleaned.source, "html", num_page_bytes - num_bytes)
        if not cleaned.text.strip():
            self._drop(_without_text(cleaned, "empty"), stage, num_bytes)
            return None
        return cleaned, num_bytes

    def _drop(self, record: Rejected, stage: str, num_bytes: int = 0) -> None:
        sample = make_sample(record.location, record.detail, record.sample)
        self._tally.count_dropped(
            record.source, stage, record.reason, num_bytes, sample, record.is_bad
        )
        more = {"detail": record.detail} if record.detail else {}
        self._removed.write(
            id=record.id, stage=stage, reason=record.reason, location=record.location, **more
        )


def _without_text(document: Document, reason: str, detail: str = "") -> Rejected:
    return Rejected(
        id=document.id,
        location=document.location,
        source=document.source,
        reason=reason,
        detail=detail,
        sample=document.text,
    )


def _describe(file: InputFile, reader: FileReader) -> dict[str, Any]:
    """An input file as it is listed with the finished dataset."""
    description: dict[str, Any] = {
        "name": file.name,
        "num_bytes": file.size,
        "stamp": file.stamp,
        "num_records": reader.num_whole_records,
    }
    if reader.problem is not None:
        description |= {"problem": reader.problem.kind, "detail": reader.problem.detail}
    elif "://" not in file.path:
        description["sha256"] = hash_file(file.path)
    return description
