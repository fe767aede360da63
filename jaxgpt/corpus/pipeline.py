"""The order of the stages, from input files to a finished dataset folder.

    read_part           files -> repaired documents, in partitions by content hash
    remove_duplicates   a partition -> which of its documents are kept
    filter_documents    a partition -> the documents that are good enough
    near_duplicates/    all partitions -> which documents repeat another one that is kept
    edit_documents      a partition -> without private data and benchmark texts
    settle_vocabulary   training text -> tokenizer
    encode_partition    a partition -> token ids, in final order
    write_shards        token ids -> shards; then removed.jsonl.zst, the report, the manifest

All results of stages lie in `.work` in the dataset folder until the manifest is written; see
`stages.py` for how an interrupted build goes on, and `executors/` for who does the work.
"""

import dataclasses
import errno
import functools
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.config import to_dict
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.deduplication import remove_duplicates
from jaxgpt.corpus.encoding import SPLITS, encode_partition, write_shards
from jaxgpt.corpus.executors.executor import Executor
from jaxgpt.corpus.finished import check_finished, refuse_foreign_folder
from jaxgpt.corpus.finishing import Outcome, write_outcome
from jaxgpt.corpus.near_duplicates.depletion import find_depleted
from jaxgpt.corpus.near_duplicates.removing import remove_near_duplicates
from jaxgpt.corpus.partition import Partition, gather_partitions
from jaxgpt.corpus.passes import Steps, apply_steps, partition_of
from jaxgpt.corpus.progress import Progress
from jaxgpt.corpus.reading import ReadPlan, batches_of, plan_num_partitions, plan_parts, read_part
from jaxgpt.corpus.sources import Inputs, find_inputs
from jaxgpt.corpus.splits import Assignment
from jaxgpt.corpus.stages import Done, Stages, Task, combined_key
from jaxgpt.corpus.tally import SourceTally, Tally
from jaxgpt.corpus.verdict import check_left, check_read
from jaxgpt.corpus.vocabulary import settle_vocabulary
from jaxgpt.dataset_manifest import MANIFEST, TOKENIZER_FOLDER
from jaxgpt.durable import FolderLock, hash_file
from jaxgpt.errors import BadInputError, JaxgptError
from jaxgpt.stopping import StopSignal
from jaxgpt.tokenizer import FILE_NAME as TOKENIZER_FILE
from jaxgpt.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

WORK = ".work"
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def build_dataset(arguments: Sequence[str], output: Path, config: DatasetConfig) -> dict[str, Any]:
    """Build the dataset of the text that `arguments` name; return its manifest.

    Goes on with a build that was interrupted. A finished dataset of the same input and settings
    is left as it is.

    Args:
        arguments: files, folders, globs and fsspec URLs.
        output: the dataset folder.
        config: everything else.

    Raises:
        UsageError: an argument names nothing; `output` is in use, not writable, or something else.
        MismatchError: `output` is a dataset of other input or settings.
        BadInputError: too many bad records, or no document is left.
        InterruptedByUser, UnfinishedError: a signal came; running again continues.
    """
    given = None
    if config.tokenizer.path is not None:
        given = Tokenizer.load(config.tokenizer.path)
    inputs = find_inputs(arguments, output, config.sources.exclude)
    with FolderLock(output), StopSignal() as stop:
        work = output / WORK
        if (output / MANIFEST).exists():
            manifest = check_finished(output, config, inputs)
            shutil.rmtree(work, ignore_errors=True)
            logger.info("%s is finished already; nothing to do", output)
            return manifest
        refuse_foreign_folder(output, WORK)
        executor = config.executor.build()
        try:
            manifest = _Build(inputs, output, config, given, executor, Progress(stop)).run()
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            raise JaxgptError(
                f"cannot write below {output}: {error.strerror or error}; what was finished is "
                f"kept: make room and run the same command again"
            ) from error
        finally:
            executor.close()
        shutil.rmtree(work)
        return manifest


class _Build:
    """One build: each method is a stage, and `run` is their order."""

    def __init__(
        self,
        inputs: Inputs,
        output: Path,
        config: DatasetConfig,
        given_tokenizer: Tokenizer | None,
        executor: Executor,
        progress: Progress,
    ) -> None:
        self._inputs = inputs
        self._output = output
        self._config = config
        self._given_tokenizer = given_tokenizer
        self._progress = progress
        # Workers elsewhere need a path that is right from wherever they run.
        self._stages = Stages((output / WORK).resolve(), executor, progress)
        self._tally = Tally()
        self._removing: list[Done] = []
        self._step_counts: dict[str, Counter[str]] = {}
        self._near_duplicates: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        config = self._config
        self._warn_if_disk_is_small()
        read = self._read()
        partitions = gather_partitions(map(batches_of, read), self._num_partitions)
        key = combined_key(read)
        partitions, key = self._remove_duplicates(partitions, key)
        partitions, key = self._apply_steps("filter_documents", partitions, [config.filters], key)
        partitions, key = self._remove_near_duplicates(partitions, key)
        edits = [config.privacy, config.decontamination]
        partitions, key = self._apply_steps("edit_documents", partitions, edits, key)
        check_left(self._tally, self._inputs)
        assignment = config.split.plan(_hashes(partitions), config.seed)
        if assignment.note:
            logger.info("%s", assignment.note)
        # Everything after this depends on these documents, divided so.
        basis = [key, type(assignment).__name__, dataclasses.asdict(assignment)]
        vocabulary = self._settle_vocabulary(partitions, assignment, basis)
        tokenizer_file = vocabulary.folder / TOKENIZER_FILE
        encoded = self._encode(partitions, assignment, tokenizer_file, vocabulary.key)
        tokenizer = Tokenizer.load(tokenizer_file)
        shards = self._write_shards(encoded, tokenizer)
        self._count_kept(encoded)
        outcome = Outcome(
            config=config,
            inputs=self._inputs,
            tally=self._tally,
            step_counts=self._step_counts,
            near_duplicates=self._near_duplicates,
            lengths=_sum_lengths(encoded),
            split_note=assignment.note,
            shards=shards,
            tokenizer=tokenizer,
            read=read,
            removing=self._removing,
        )
        return write_outcome(self._output, outcome)

    @functools.cached_property
    def _num_partitions(self) -> int:
        return plan_num_partitions(self._inputs.files)

    def _read(self) -> list[Done]:
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
        for part in done:
            self._tally.merge(Tally.from_json(part.result["tally"]))
            self._tally.fold_sources()
        self._removing += done
        files = [file for part in done for file in part.result["files"]]
        check_read(self._tally, files, config.sources)
        return done

    def _remove_duplicates(
        self, partitions: Sequence[Partition], key: str
    ) -> tuple[list[Partition], str]:
        tasks = _tasks(partitions, lambda partition: (partition,), [key])
        done = self._stages.run("removing duplicates", remove_duplicates, tasks)
        self._count_removed(done, [part.result for part in done])
        return _without(partitions, done), combined_key(done)

    def _apply_steps(
        self, name: str, partitions: Sequence[Partition], configs: Sequence[Steps], key: str
    ) -> tuple[list[Partition], str]:
        """Judge and edit documents one by one; without any steps they stay as they are."""
        if not any(config.build() for config in configs):
            return list(partitions), key
        identity = [[to_dict(config), _hash_files(config.files_read)] for config in configs]
        tasks = _tasks(partitions, lambda partition: (partition, configs), [key, identity])
        done = self._stages.run(name.replace("_", "ing "), apply_steps, tasks, name)
        self._count_removed(done, [part.result["tally"] for part in done])
        for part in done:
            for stage, counts in part.result["counts"].items():
                self._step_counts.setdefault(stage, Counter()).update(counts)
        return [partition_of(number, part) for number, part in enumerate(done)], combined_key(done)

    def _remove_near_duplicates(
        self, partitions: Sequence[Partition], key: str
    ) -> tuple[list[Partition], str]:
        config = self._config.near_duplicates
        if not config.enabled:
            return list(partitions), key
        found = remove_near_duplicates(self._stages, partitions, config, key)
        self._near_duplicates = {"counts": found.counts, "examples": found.examples}
        self._count_removed(found.done, [part.result for part in found.done])
        for sentence in find_depleted(self._tally):
            logger.warning("%s", sentence)
        return _without(partitions, found.done), combined_key(found.done)

    def _settle_vocabulary(
        self, partitions: Sequence[Partition], assignment: Assignment, basis: Any
    ) -> Done:
        given = self._given_tokenizer
        task = Task(
            name="tokenizer",
            depends_on=[
                to_dict(self._config.tokenizer) if given is None else given.fingerprint,
                basis,
            ],
            arguments=(partitions, assignment, self._config.tokenizer),
            num_bytes=sum(partition.num_bytes for partition in partitions),
        )
        title = "training the tokenizer" if given is None else "copying the tokenizer"
        return self._stages.run(title, settle_vocabulary, [task])[0]

    def _encode(
        self,
        partitions: Sequence[Partition],
        assignment: Assignment,
        tokenizer_file: Path,
        key: str,
    ) -> list[Done]:
        # The tokenizer's key stands for the documents and their assignment, too.
        tasks = _tasks(partitions, lambda partition: (partition, assignment, tokenizer_file), [key])
        return self._stages.run("encoding", encode_partition, tasks)

    def _write_shards(self, encoded: list[Done], tokenizer: Tokenizer) -> dict[str, Any]:
        # Without a manifest, whatever lies here is from a build that did not get to its end.
        for name in (*SPLITS, TOKENIZER_FOLDER):
            shutil.rmtree(self._output / name, ignore_errors=True)
        for path in self._output.glob(".*.tmp"):
            path.unlink()
        tokenizer.save(self._output / TOKENIZER_FOLDER)
        folders = [done.folder for done in encoded]
        self._progress.begin("writing shards", self._tally.kept_bytes)
        shards = write_shards(
            self._output,
            folders,
            tokenizer,
            self._config.shards.max_tokens,
            self._progress.advance,
        )
        self._progress.finish()
        if not shards["val"]:
            raise BadInputError(
                "there is too little text to hold any out for validation; give more"
            )
        return shards

    def _count_removed(self, done: Sequence[Done], tallies: Sequence[Any]) -> None:
        self._removing += done
        for tally in tallies:
            self._tally.merge_later_stage(Tally.from_json(tally))
        self._tally.check()

    def _count_kept(self, encoded: list[Done]) -> None:
        """Bring what the encoder counted by source into the account, and see that it closes."""
        for done in encoded:
            sources = done.result["sources"].items()
            kept = {name: SourceTally.from_json(counts) for name, counts in sources}
            self._tally.merge_later_stage(Tally(sources=kept))
        self._tally.check_kept()

    def _warn_if_disk_is_small(self) -> None:
        needed = sum(file.estimated_text_bytes for file in self._inputs.files) * 3 // 2
        free = shutil.disk_usage(self._output).free
        if free < needed:
            logger.warning(
                "%s has %.1f GB free; this build may need about %.1f GB",
                self._output,
                free / 1e9,
                needed / 1e9,
            )


def _tasks(
    partitions: Sequence[Partition],
    arguments_of: Callable[[Partition], tuple[Any, ...]],
    depends_on: Sequence[Any],
) -> list[Task]:
    """One task for each partition."""
    return [
        Task(
            name=f"{partition.number:05d}",
            depends_on=[partition.number, *depends_on],
            arguments=arguments_of(partition),
            num_bytes=partition.num_bytes,
        )
        for partition in partitions
    ]


def _without(partitions: Sequence[Partition], done: Sequence[Done]) -> list[Partition]:
    """What stages that wrote which rows stay have left of each partition."""
    return [
        partition.without(part.folder) for partition, part in zip(partitions, done, strict=True)
    ]


def _hash_files(paths: Sequence[str]) -> list[str]:
    return [hash_file(path) for path in paths]


def _hashes(partitions: Sequence[Partition]) -> Iterator[bytes]:
    for partition in partitions:
        for batch in partition.batches(("hash",)):
            yield from batch.column(0).to_pylist()


def _sum_lengths(encoded: list[Done]) -> Counter[int]:
    lengths: Counter[int] = Counter()
    for done in encoded:
        lengths.update({int(bits): count for bits, count in done.result["lengths"].items()})
    return lengths
