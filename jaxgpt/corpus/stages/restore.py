"""The stage that brings back the documents of a finished dataset, to compare new ones with.

Tokens are decoded to exactly the text that was encoded, so nothing but the shards need be kept for
it. The documents go into partitions as they did when they were read.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxgpt.corpus.dataset.document_index import check_index, index_groups, read_groups
from jaxgpt.corpus.documents.document import Document
from jaxgpt.corpus.documents.document_files import DocumentWriter
from jaxgpt.corpus.documents.splits import SPLITS
from jaxgpt.corpus.execution.tasks import Task, TaskRunner, combined_key
from jaxgpt.corpus.stages.documents import ExistingDocuments, written_partitions
from jaxgpt.corpus.stages.read import PART_BYTES
from jaxgpt.corpus.stats.counts import DocumentCounts
from jaxgpt.corpus.stats.stage_result import stage_result
from jaxgpt.data.shards import TokenDataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexRange:
    """Neighbouring documents of a split: some groups of rows of its index.

    Attributes:
        split: `train` or `val`.
        first_group, stop_group: which groups.
        first_token: where the first of them begins in the split.
        num_bytes: of text.
    """

    split: str
    first_group: int
    stop_group: int
    first_token: int
    num_bytes: int


def plan_index_ranges(dataset: TokenDataset) -> list[IndexRange]:
    """Cut the indexes of a dataset into ranges of similar size.

    Raises:
        MismatchError: an index is missing or damaged, or not that of the shards.
    """
    ranges = []
    for split in SPLITS:
        first_group = num_documents = end = 0
        first_token = num_bytes = stop_group = 0
        for stop_group, (documents, tokens, size) in enumerate(
            index_groups(dataset.directory, split), start=1
        ):
            num_documents, end, num_bytes = (
                num_documents + documents,
                end + tokens,
                num_bytes + size,
            )
            if num_bytes >= PART_BYTES:
                ranges.append(_index_range(split, first_group, stop_group, first_token, num_bytes))
                first_group, first_token, num_bytes = stop_group, end, 0
        if first_group < stop_group:
            ranges.append(_index_range(split, first_group, stop_group, first_token, num_bytes))
        check_index(dataset, split, num_documents, end)
    return ranges


def _index_range(
    split: str, first_group: int, stop_group: int, first_token: int, size: int
) -> IndexRange:
    return IndexRange(
        split=split,
        first_group=first_group,
        stop_group=stop_group,
        first_token=first_token,
        num_bytes=size,
    )


def restore_documents(
    runner: TaskRunner, stored: TokenDataset, num_partitions: int, seed: int, with_text: bool
) -> ExistingDocuments:
    """Bring back the documents of a dataset, in as many partitions as the new ones have.

    Without `with_text` their texts are left out; hash, id and place are there.

    Raises:
        MismatchError: as `plan_index_ranges`.
    """
    settings = [num_partitions, seed, with_text]
    tasks = [
        Task(
            name=f"{number:05d}",
            depends_on=[stored.manifest["fingerprint"], dataclasses.astuple(index_range), settings],
            arguments=(stored.directory.resolve(), index_range, *settings),
            num_bytes=index_range.num_bytes,
        )
        for number, index_range in enumerate(plan_index_ranges(stored))
    ]
    results = runner.run("restoring stored documents", restore_range, tasks)
    partitions = written_partitions(results, num_partitions)
    return ExistingDocuments(partitions=partitions, key=combined_key(results))


def restore_range(
    folder: Path,
    advance: Callable[[int], None],
    dataset: Path,
    index_range: IndexRange,
    num_partitions: int,
    seed: int,
    with_text: bool,
) -> dict[str, Any]:
    """Write the documents of an index range; nothing is counted."""
    with DocumentWriter(folder, num_partitions, seed) as writer:
        for document, digest, num_bytes in _stored(dataset, index_range, with_text):
            writer.write(document, num_bytes if with_text else 0, digest)
            advance(num_bytes)
    return stage_result(DocumentCounts(), writer.batches)


def _stored(
    dataset: Path, index_range: IndexRange, with_text: bool
) -> Iterator[tuple[Document, bytes, int]]:
    """Yield (document, content hash, bytes of its text) of an index range."""
    opened = TokenDataset.open(dataset)
    tokenizer, split = opened.load_tokenizer(), opened.splits[index_range.split]
    start = index_range.first_token
    for batch in read_groups(
        dataset, index_range.split, range(index_range.first_group, index_range.stop_group)
    ):
        for row in batch.to_pylist():
            stop = start + row.pop("num_tokens")
            digest, num_bytes = row.pop("hash"), row.pop("num_bytes")
            text = tokenizer.decode(split.read(start, stop).tolist()) if with_text else ""
            yield Document(text=text, **row), digest, num_bytes
            start = stop
