"""The first stage: files are read, documents repaired and put in their partition.

Everything that happens to a record here is counted.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.config import to_dict
from jaxgpt.corpus.cleaning.repair import RepairConfig, clean
from jaxgpt.corpus.documents.document import Document, Rejected, RemovedWriter
from jaxgpt.corpus.documents.document_files import DocumentWriter
from jaxgpt.corpus.execution.tasks import Task, TaskResult, TaskRunner, combined_key
from jaxgpt.corpus.readers.html import extract_text, find_excess, is_page
from jaxgpt.corpus.readers.readers import FileReader
from jaxgpt.corpus.readers.sources import InputFile, Inputs, SourcesConfig
from jaxgpt.corpus.readers.text_estimate import TextEstimate
from jaxgpt.corpus.stages.documents import Documents, written_partitions
from jaxgpt.corpus.stages.mixture import MixtureConfig
from jaxgpt.corpus.stats.account import Account
from jaxgpt.corpus.stats.counts import OTHER_SOURCES, DocumentCounts, make_sample, named_sources
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from jaxgpt.corpus.stats.input_checks import check_read
from jaxgpt.corpus.stats.stage_result import stage_result
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
    """Settings of the first stage, in addition to the files."""

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


def read_documents(
    runner: TaskRunner,
    inputs: Inputs,
    plan: ReadPlan,
    mixture: MixtureConfig,
    stored: DocumentCounts | None = None,
) -> Documents:
    """Read files into repaired documents.

    Args:
        mixture: sources with a weight, which must exist.
        stored: counts of the dataset that the documents are added to.

    Raises:
        BadInputError: too much of the input is bad.
        ConfigError: a source has a weight and no documents, here or in the dataset.
    """
    results = runner.run("reading", read_part, _read_tasks(inputs.files, plan))
    account = Account(skipped=Counter(inputs.skipped))
    num_read = _count_read(account, results, stored)
    files = tuple(file for done in results for file in done.result["files"])
    account.count_files(files)
    check_read(account.tally, files, plan.sources)
    known = {} if stored is None else stored.sources
    if OTHER_SOURCES not in known:
        mixture.check_sources(num_read.keys() | known.keys())
    partitions = written_partitions(results, plan.num_partitions)
    return Documents(
        partitions=partitions,
        key=combined_key(results),
        read=partitions,
        account=account,
        drop_logs=tuple(done.folder / REMOVED_NAME for done in results),
        files=files,
    )


def _read_tasks(files: Sequence[InputFile], plan: ReadPlan) -> list[Task]:
    # Limits that are applied after reading may change without reading again.
    settings = to_dict(plan.sources) | {"max_bad_share": None, "truncated_files": None}
    depends_on = [settings, to_dict(plan.repair), plan.num_partitions, plan.seed]
    return [
        Task(
            name=f"{number:05d}",
            depends_on=[depends_on, [dataclasses.astuple(file) for file in part]],
            arguments=(part, plan),
            num_bytes=sum(file.size for file in part),
        )
        for number, part in enumerate(plan_parts(files))
    ]


def _count_read(
    account: Account, results: Sequence[TaskResult], stored: DocumentCounts | None
) -> Counter[str]:
    """Add up what was read; return the number of records of each source."""
    num_read: Counter[str] = Counter()
    for done in results:
        sources = done.result["counts"]["sources"].items()
        num_read.update({name: counts["read"] for name, counts in sources})
    names = named_sources(num_read, stored)
    for done in results:
        account.tally.merge(DocumentCounts.from_json(done.result["counts"]).folded(names))
    return num_read


def read_part(
    folder: Path, advance: Callable[[int], None], files: Sequence[InputFile], plan: ReadPlan
) -> dict[str, Any]:
    """Write the documents of `files` and what was removed; list the files in the result."""
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
    return stage_result(tally, documents.batches, files=read_files)


class _Gate:
    """Repairs records and takes the text out of pages; counts them and lists those that go."""

    def __init__(self, plan: ReadPlan, tally: DocumentCounts, removed: RemovedWriter) -> None:
        self._repair_config = plan.repair
        self._sources = plan.sources
        self._tally = tally
        self._removed = removed

    def __call__(self, record: Document | Rejected, path: str) -> tuple[Document, int] | None:
        """Return the repaired document and the bytes of its text; None if it is dropped."""
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
    """Describe an input file, as it is listed with the finished dataset."""
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
