"""The order of the stages, from input files to a finished dataset folder.

    read_part           files -> repaired, filtered documents, in partitions by content hash
    remove_duplicates   a partition -> which of its documents are kept
    settle_vocabulary   training text -> tokenizer
    encode_partition    a partition -> token ids, in final order
    write_shards        token ids -> shards; then removed.jsonl.zst, the report, the manifest

Stages that remove documents belong between the first two and the vocabulary. All results of
stages lie in `.work` in the dataset folder until the manifest is written; see `stages.py` for how
an interrupted build goes on.
"""

import dataclasses
import errno
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.config import to_dict
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.deduplication import KEPT_NAME, kept_batches, remove_duplicates
from jaxgpt.corpus.encoding import SPLITS, encode_partition, write_shards
from jaxgpt.corpus.finished import check_finished, refuse_foreign_folder
from jaxgpt.corpus.finishing import Outcome, write_outcome
from jaxgpt.corpus.parts import Part
from jaxgpt.corpus.progress import Progress
from jaxgpt.corpus.reading import ReadPlan, part_of, plan_num_partitions, plan_parts, read_part
from jaxgpt.corpus.sources import Inputs, find_inputs
from jaxgpt.corpus.splits import Assignment
from jaxgpt.corpus.stages import Done, Task, combined_key, run_stage
from jaxgpt.corpus.tally import OTHER_SOURCES, SourceTally, Tally
from jaxgpt.corpus.verdict import check_left, check_read
from jaxgpt.corpus.vocabulary import settle_vocabulary
from jaxgpt.dataset_manifest import MANIFEST, TOKENIZER_FOLDER
from jaxgpt.durable import FolderLock
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
        try:
            manifest = _Build(inputs, output, config, given, Progress(stop)).run()
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            raise JaxgptError(
                f"cannot write below {output}: {error.strerror or error}; what was finished is "
                f"kept: make room and run the same command again"
            ) from error
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
        progress: Progress,
    ) -> None:
        self._inputs = inputs
        self._output = output
        self._work = output / WORK
        self._config = config
        self._given_tokenizer = given_tokenizer
        self._progress = progress
        self._tally = Tally()
        self._num_partitions = plan_num_partitions(inputs.files)

    def run(self) -> dict[str, Any]:
        config = self._config
        self._warn_if_disk_is_small()
        read = self._read()
        parts = [part_of(done) for done in read]
        deduplicated = self._remove_duplicates(read, parts)
        check_left(self._tally, self._inputs)
        kept_files = [done.folder / KEPT_NAME for done in deduplicated]
        assignment = config.split.plan(_hashes(parts, kept_files), config.seed)
        if assignment.note:
            logger.info("%s", assignment.note)
        # Everything after this depends on these documents, divided so.
        basis = {
            "documents": combined_key([*read, *deduplicated]),
            "assignment": [type(assignment).__name__, dataclasses.asdict(assignment)],
        }
        vocabulary = self._settle_vocabulary(parts, kept_files, assignment, basis)
        tokenizer_file = vocabulary.folder / TOKENIZER_FILE
        encoded = self._encode(parts, kept_files, assignment, tokenizer_file, vocabulary.key)
        tokenizer = Tokenizer.load(tokenizer_file)
        shards = self._write_shards(encoded, tokenizer)
        self._count_kept(encoded)
        outcome = Outcome(
            config=config,
            inputs=self._inputs,
            tally=self._tally,
            lengths=_sum_lengths(encoded),
            split_note=assignment.note,
            shards=shards,
            tokenizer=tokenizer,
            read=read,
            removing=[*read, *deduplicated],
        )
        return write_outcome(self._output, outcome)

    def _read(self) -> list[Done]:
        config = self._config
        plan = ReadPlan(
            sources=config.sources,
            repair=config.repair,
            filters=config.filters,
            num_partitions=self._num_partitions,
            seed=config.seed,
        )
        # Limits that are applied after reading may change without reading again.
        settings = to_dict(config.sources) | {"max_bad_share": None, "truncated_files": None}
        depends_on = [
            settings,
            to_dict(config.repair),
            to_dict(config.filters),
            self._num_partitions,
            config.seed,
        ]
        tasks = [
            Task(
                name=f"{number:05d}",
                depends_on=[depends_on, [dataclasses.astuple(file) for file in files]],
                arguments=(files, plan),
                num_bytes=sum(file.size for file in files),
            )
            for number, files in enumerate(plan_parts(self._inputs.files))
        ]
        done = run_stage(self._work, "reading", read_part, tasks, self._progress)
        for part in done:
            self._tally.merge(Tally.from_json(part.result["tally"]))
            self._tally.fold_sources()
        files = [file for part in done for file in part.result["files"]]
        check_read(self._tally, files, config.sources)
        return done

    def _remove_duplicates(self, read: list[Done], parts: list[Part]) -> list[Done]:
        key = combined_key(read)
        tasks = [
            Task(
                name=f"{partition:05d}",
                depends_on=[partition, key],
                arguments=(parts, partition),
                num_bytes=num_bytes,
            )
            for partition, num_bytes in enumerate(self._partition_sizes(parts))
        ]
        title = "removing duplicates"
        done = run_stage(self._work, title, remove_duplicates, tasks, self._progress)
        for part in done:
            self._tally.drop(Counter(part.result["dropped"]), part.result["samples"])
        return done

    def _settle_vocabulary(
        self, parts: list[Part], kept_files: list[Path], assignment: Assignment, basis: Any
    ) -> Done:
        given = self._given_tokenizer
        task = Task(
            name="tokenizer",
            depends_on=[
                to_dict(self._config.tokenizer) if given is None else given.fingerprint,
                basis,
            ],
            arguments=(parts, kept_files, assignment, self._config.tokenizer),
            num_bytes=sum(self._partition_sizes(parts)),
        )
        title = "training the tokenizer" if given is None else "copying the tokenizer"
        return run_stage(self._work, title, settle_vocabulary, [task], self._progress)[0]

    def _encode(
        self,
        parts: list[Part],
        kept_files: list[Path],
        assignment: Assignment,
        tokenizer_file: Path,
        key: str,
    ) -> list[Done]:
        tasks = [
            Task(
                name=f"{partition:05d}",
                # The tokenizer's key stands for the documents and their assignment, too.
                depends_on=[partition, key],
                arguments=(parts, partition, kept_files[partition], assignment, tokenizer_file),
                num_bytes=num_bytes,
            )
            for partition, num_bytes in enumerate(self._partition_sizes(parts))
        ]
        return run_stage(self._work, "encoding", encode_partition, tasks, self._progress)

    def _write_shards(self, encoded: list[Done], tokenizer: Tokenizer) -> dict[str, Any]:
        # Without a manifest, whatever lies here is from a build that did not get to its end.
        for name in (*SPLITS, TOKENIZER_FOLDER):
            shutil.rmtree(self._output / name, ignore_errors=True)
        for path in self._output.glob(".*.tmp"):
            path.unlink()
        tokenizer.save(self._output / TOKENIZER_FOLDER)
        folders = [done.folder for done in encoded]
        self._progress.begin("writing shards", self._tally_bytes(encoded))
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

    def _count_kept(self, encoded: list[Done]) -> None:
        """Bring what the encoder counted by source into the account."""
        sources = self._tally.sources
        for done in encoded:
            for name, counts in done.result["sources"].items():
                known = name if name in sources else OTHER_SOURCES
                sources.setdefault(known, SourceTally()).add(SourceTally(**counts))

    def _partition_sizes(self, parts: list[Part]) -> list[int]:
        """Bytes of text in each partition, duplicates included."""
        total: Counter[int] = Counter()
        for part in parts:
            total.update(part.num_bytes)
        return [total[partition] for partition in range(self._num_partitions)]

    def _tally_bytes(self, encoded: list[Done]) -> int:
        return sum(
            counts["num_bytes"] for done in encoded for counts in done.result["sources"].values()
        )

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


def _hashes(parts: list[Part], kept_files: list[Path]) -> Iterator[bytes]:
    for partition, kept_file in enumerate(kept_files):
        for batch in kept_batches(parts, partition, kept_file, ("hash",)):
            yield from batch.column(0).to_pylist()


def _sum_lengths(encoded: list[Done]) -> Counter[int]:
    lengths: Counter[int] = Counter()
    for done in encoded:
        lengths.update({int(bits): count for bits, count in done.result["lengths"].items()})
    return lengths
