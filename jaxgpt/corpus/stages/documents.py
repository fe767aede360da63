"""`Documents`: the value that a stage takes and the next stage gets.

A stage is one function in one file: (runner, documents, its settings) -> documents. It makes the
tasks, one for each partition, and the runner carries them out. Nothing here is changed in place:
documents that a stage has left are a value of their own, with an account and a key of their own.

The types keep the order. Only `read_documents` makes `Documents`; only `weigh_sources` turns them
into `DividedDocuments`, and only these can be encoded. Which stages come between is for
`build.py` and `append.py`.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.corpus.documents.document_files import FILE_NAME, DocumentBatch
from jaxgpt.corpus.documents.partition import Partition, gather_partitions
from jaxgpt.corpus.documents.splits import Assignment
from jaxgpt.corpus.execution.tasks import Task, TaskResult, combined_key
from jaxgpt.corpus.stats.account import Account
from jaxgpt.corpus.stats.counts import DocumentCounts
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExistingDocuments:
    """The documents of a dataset that exists already, in as many partitions as the new ones.

    Attributes:
        key: a hash of everything that they depend on.
    """

    partitions: tuple[Partition, ...]
    key: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Documents:
    """The documents that are still in, and how they came to be.

    Attributes:
        partitions: in order of their numbers.
        key: a hash of everything that the documents depend on.
        read: the same partitions as they were read.
        account: counts of everything up to here.
        drop_logs: listings of the documents that stages removed, in order.
        files: the input files as they are listed with the dataset.
    """

    partitions: tuple[Partition, ...]
    key: str
    read: tuple[Partition, ...]
    account: Account
    drop_logs: tuple[Path, ...]
    files: tuple[Mapping[str, Any], ...]

    def tasks(
        self, arguments_of: Callable[[Partition], tuple[Any, ...]], *depends_on: Any
    ) -> list[Task]:
        """Return one task for each partition.

        Args:
            arguments_of: the arguments of the task function for a partition.
            depends_on: JSON-able; what the results depend on besides the documents.
        """
        return [
            Task(
                name=f"{partition.number:05d}",
                depends_on=[partition.number, self.key, *depends_on],
                arguments=arguments_of(partition),
                num_bytes=partition.num_bytes,
            )
            for partition in self.partitions
        ]

    def masked_by(self, results: Sequence[TaskResult]) -> "Documents":
        """Return the documents that are left by a stage that wrote which rows are kept."""
        pairs = zip(self.partitions, results, strict=True)
        return self._after(results, tuple(each.without(done.folder) for each, done in pairs))

    def rewritten_by(self, results: Sequence[TaskResult]) -> "Documents":
        """Return the documents that are left by a stage that wrote them again."""
        return self._after(results, written_partitions(results, len(self.partitions)))

    def hashes(self) -> Iterator[bytes]:
        """Yield the content hashes."""
        for partition in self.partitions:
            for batch in partition.batches(("hash",)):
                yield from batch.column(0).to_pylist()

    def _after(
        self, results: Sequence[TaskResult], partitions: tuple[Partition, ...]
    ) -> "Documents":
        account = copy.deepcopy(self.account)
        for done in results:
            account.tally.merge_later_stage(DocumentCounts.from_json(done.result["counts"]))
            account.count_steps(done.result["steps"])
        account.tally.check()
        return dataclasses.replace(
            self,
            partitions=partitions,
            key=combined_key(results),
            account=account,
            drop_logs=(*self.drop_logs, *(done.folder / REMOVED_NAME for done in results)),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DividedDocuments:
    """Documents that all filters have left, divided between the splits and weighed.

    Attributes:
        assignment: how they are divided.
        copies: for each partition the second and further copies of documents that have their
            place in it; empty if there are none anywhere.
    """

    documents: Documents
    assignment: Assignment
    copies: tuple[Partition, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedDocuments:
    """Documents as token ids; `folders` has the results of `encode_partition`, in final order."""

    documents: Documents
    folders: tuple[Path, ...]


def written_partitions(results: Sequence[TaskResult], num_partitions: int) -> tuple[Partition, ...]:
    """Return the partitions of the documents that the tasks of a stage have written."""
    names = [field.name for field in dataclasses.fields(DocumentBatch)]
    files = (
        (
            done.folder / FILE_NAME,
            [DocumentBatch(**dict(zip(names, row, strict=True))) for row in done.result["batches"]],
        )
        for done in results
    )
    return tuple(gather_partitions(files, num_partitions))
