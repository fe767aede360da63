"""The stages of a corpus on its way from input files to token ids, and what they counted.

Each method is a stage: it makes the tasks, has them carried out, and brings what they counted into
the account. Which stages come in which order is for `build.py`.
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.config import to_dict
from jaxgpt.corpus.account import Account
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.dedup.exact import remove_duplicates
from jaxgpt.corpus.dedup.near.apply import find_depleted
from jaxgpt.corpus.dedup.near.pipeline import remove_near_duplicates
from jaxgpt.corpus.documents.partition import Partition, gather_partitions
from jaxgpt.corpus.documents.splits import Assignment
from jaxgpt.corpus.execution.tasks import Task, TaskFunction, TaskResult, TaskRunner, combined_key
from jaxgpt.corpus.input_checks import check_read
from jaxgpt.corpus.readers.sources import Inputs
from jaxgpt.corpus.stages.encode import encode_partition
from jaxgpt.corpus.stages.filter import Steps, apply_steps, partition_of
from jaxgpt.corpus.stages.measure import measure_documents
from jaxgpt.corpus.stages.mixture import weigh_partition
from jaxgpt.corpus.stages.read import ReadPlan, batches_of, plan_parts, read_part
from jaxgpt.corpus.stages.train_tokenizer import settle_vocabulary
from jaxgpt.corpus.stats.counts import OTHER_SOURCES, DocumentCounts, SourceCounts, named_sources
from jaxgpt.storage.durable import hash_file
from jaxgpt.tokenizer.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExistingDocuments:
    """The documents of a dataset that exists already, in as many partitions as the new ones.

    Attributes:
        key: a hash of everything that they depend on.
    """

    partitions: Sequence[Partition]
    key: str


class Processing:
    """The documents of some input files, from stage to stage.

    Attributes:
        account: of what was done so far.
        partitions: the documents that are still in.
        key: a hash of everything that they depend on.
        removing: results of the stages that removed documents, in order.
        files: the input files as they are listed with the dataset.
    """

    def __init__(
        self, inputs: Inputs, config: DatasetConfig, stages: TaskRunner, num_partitions: int
    ) -> None:
        self.account = Account(skipped=Counter(inputs.skipped))
        self.partitions: list[Partition] = []
        self.key = ""
        self.removing: list[TaskResult] = []
        self.files: list[dict[str, Any]] = []
        self._all_read: list[Partition] = []
        self._copies: list[Partition] = []
        self._inputs = inputs
        self._config = config
        self._stages = stages
        self._num_partitions = num_partitions

    def read(self, stored: DocumentCounts | None = None) -> None:
        """Files -> repaired documents.

        Args:
            stored: of the dataset that they are added to.

        Raises:
            BadInputError: too much of it is bad.
            ConfigError: a source has a weight and no documents, here or in the dataset.
        """
        config = self._config
        plan = ReadPlan(
            sources=config.sources,
            repair=config.repair,
            num_partitions=self._num_partitions,
            seed=config.seed,
        )
        # Limits that are applied after reading may change without reading again.
        settings = to_dict(config.sources) | {"max_bad_share": None, "truncated_files": None}
        depends_on = [settings, to_dict(config.repair), self._num_partitions, config.seed]
        tasks = [
            Task(
                name=f"{number:05d}",
                depends_on=[depends_on, [dataclasses.astuple(file) for file in files]],
                arguments=(files, plan),
                num_bytes=sum(file.size for file in files),
            )
            for number, files in enumerate(plan_parts(self._inputs.files))
        ]
        done = self._stages.run("reading", read_part, tasks)
        num_read = self._count_read(done, stored)
        self.removing += done
        self.files = [file for part in done for file in part.result["files"]]
        self.account.count_files(self.files)
        check_read(self.account.tally, self.files, config.sources)
        known = {} if stored is None else stored.sources
        if OTHER_SOURCES not in known:
            config.mixture.check_sources(num_read.keys() | known.keys())
        self.partitions = gather_partitions(map(batches_of, done), self._num_partitions)
        self._all_read = self.partitions
        self.key = combined_key(done)

    def remove_duplicates(self, older: ExistingDocuments | None = None) -> None:
        """Leave one of each text, and none that `older` has."""
        if older is None:
            tasks = self._tasks(lambda partition: (partition,))
        else:
            tasks = self._tasks(
                lambda partition: (partition, older.partitions[partition.number]), older.key
            )
        done = self._stages.run("removing duplicates", remove_duplicates, tasks)
        self._count_removed(done, [part.result for part in done])
        self._leave_out(done)

    def leave_out(
        self, title: str, function: TaskFunction, *arguments: Any, depends_on: Any
    ) -> None:
        """Have a function of (partition, *arguments) say which documents stay."""
        tasks = self._tasks(lambda partition: (partition, *arguments), depends_on)
        done = self._stages.run(title, function, tasks)
        self._count_removed(done, [part.result for part in done])
        self._leave_out(done)

    def apply_steps(self, name: str, configs: Sequence[Steps]) -> None:
        """Judge and edit documents one by one; without any steps they stay as they are."""
        if not any(config.build() for config in configs):
            return
        identity = [[to_dict(config), _hash_files(config.files_read)] for config in configs]
        tasks = self._tasks(lambda partition: (partition, configs), identity)
        done = self._stages.run(name.replace("_", "ing "), apply_steps, tasks, name)
        self._count_removed(done, [part.result["tally"] for part in done])
        for part in done:
            self.account.count_steps(part.result["counts"])
        self.partitions = [partition_of(number, part) for number, part in enumerate(done)]
        self.key = combined_key(done)

    def remove_near_duplicates(self, older: ExistingDocuments | None = None) -> None:
        """Leave one of texts that are nearly the same, and none that is like one of `older`."""
        config = self._config.near_duplicates
        if not config.enabled:
            return
        key, stored = (self.key, ()) if older is None else (self.key + older.key, older.partitions)
        found = remove_near_duplicates(self._stages, self.partitions, config, key, stored)
        self.account.count_near_duplicates(found.counts, found.examples)
        self._count_removed(found.done, [part.result for part in found.done])
        for sentence in find_depleted(self.account.tally):
            logger.warning("%s", sentence)
        self._leave_out(found.done)

    def measure(self) -> None:
        """What the documents that were read and those that are left are like, for the report."""
        found = measure_documents(self._stages, self._all_read, self.partitions, self.key)
        self.account.count_measures(found)

    def hashes(self) -> Iterator[bytes]:
        """The content hashes of the documents that are still in."""
        for partition in self.partitions:
            for batch in partition.batches(("hash",)):
                yield from batch.column(0).to_pylist()

    def weigh(self, assignment: Assignment) -> None:
        """Drop and repeat documents of sources that have a weight."""
        config, seed = self._config.mixture, self._config.seed
        if not config.weights:
            return
        tasks = self._tasks(
            lambda each: (each, assignment, config, self._num_partitions, seed),
            [to_dict(config), seed, assignment.to_json()],
        )
        done = self._stages.run("weighing sources", weigh_partition, tasks)
        self._count_removed(done, [part.result["tally"] for part in done])
        self._copies = gather_partitions(map(batches_of, done), self._num_partitions)
        self._leave_out(done)

    def settle_vocabulary(self, assignment: Assignment, given: Tokenizer | None) -> TaskResult:
        """Train the tokenizer, or take the given one."""
        # Everything after this depends on these documents, divided so.
        basis = [self.key, type(assignment).__name__, dataclasses.asdict(assignment)]
        config = self._config.tokenizer
        task = Task(
            name="tokenizer",
            depends_on=[to_dict(config) if given is None else given.fingerprint, basis],
            arguments=(self.partitions, assignment, config),
            num_bytes=sum(partition.num_bytes for partition in self.partitions),
        )
        title = "training the tokenizer" if given is None else "copying the tokenizer"
        return self._stages.run(title, settle_vocabulary, [task])[0]

    def encode(self, assignment: Assignment, tokenizer_file: Path, key: str) -> list[Path]:
        """Texts -> token ids; return the folders of them, in final order.

        Args:
            key: stands for the documents, their assignment and the tokenizer.
        """
        self.key = key
        copies = self._copies or [None] * len(self.partitions)
        tasks = self._tasks(lambda each: (each, copies[each.number], assignment, tokenizer_file))
        encoded = self._stages.run("encoding", encode_partition, tasks)
        for done in encoded:
            sources = done.result["sources"].items()
            kept = {name: SourceCounts.from_json(counts) for name, counts in sources}
            self.account.tally.merge_later_stage(DocumentCounts(sources=kept))
        self.account.check()
        return [done.folder for done in encoded]

    def _count_read(
        self, done: Sequence[TaskResult], stored: DocumentCounts | None
    ) -> Counter[str]:
        """Add up what was read; return the records of each source."""
        num_read: Counter[str] = Counter()
        for part in done:
            sources = part.result["tally"]["sources"].items()
            num_read.update({name: counts["read"] for name, counts in sources})
        names = named_sources(num_read, stored)
        for part in done:
            self.account.tally.merge(DocumentCounts.from_json(part.result["tally"]).folded(names))
        return num_read

    def _count_removed(self, done: Sequence[TaskResult], tallies: Sequence[Any]) -> None:
        self.removing += done
        for tally in tallies:
            self.account.tally.merge_later_stage(DocumentCounts.from_json(tally))
        self.account.tally.check()

    def _leave_out(self, done: Sequence[TaskResult]) -> None:
        """Go on with what stages that wrote which rows stay have left of each partition."""
        self.partitions = [
            partition.without(part.folder)
            for partition, part in zip(self.partitions, done, strict=True)
        ]
        self.key = combined_key(done)

    def _tasks(
        self, arguments_of: Callable[[Partition], tuple[Any, ...]], *depends_on: Any
    ) -> list[Task]:
        """One task for each partition."""
        return [
            Task(
                name=f"{partition.number:05d}",
                depends_on=[partition.number, self.key, *depends_on],
                arguments=arguments_of(partition),
                num_bytes=partition.num_bytes,
            )
            for partition in self.partitions
        ]


def _hash_files(paths: Sequence[str]) -> list[str]:
    return [hash_file(path) for path in paths]
