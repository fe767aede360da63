"""Adding new text to a finished dataset, as if it had been there when the dataset was built.

    restore_documents     stored tokens -> the documents of the dataset, in partitions
    read_part             new files -> repaired documents, in as many partitions
    leave_out_taken_down  a partition -> without what was taken down from the dataset
    remove_duplicates     a partition, new and stored -> which new documents are kept
    filter_documents      a partition -> the documents that are good enough
    edit_documents        a partition -> without private data and benchmark texts
    dedup/near/           all partitions -> which new documents repeat a stored or another new one
    weigh_partition       a partition -> documents of some sources fewer or several times
    encode_partition      a partition -> token ids, with the dataset's tokenizer, in final order
    write_shards          token ids -> further shards; then the files that tell of all, the manifest

Stored documents and their shards stay as they are. Edits come before near duplicates, other than
in a build: stored texts are edited, and are to be compared with the like.

What lies in `.append` is from an append that goes on when it is started again.
"""

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.corpus.account import Account, read_account
from jaxgpt.corpus.append_settings import (
    APPEND_OPERATION,
    changed_settings,
    check_settings,
    settings_of_parts,
)
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.dataset.listings import INPUTS_NAME, read_listing
from jaxgpt.corpus.dataset.versions import finish_version, first_free_number, next_version
from jaxgpt.corpus.disk_space import (
    check_disk_space,
    explaining_full_disk,
    forecast_build,
    forecast_restoring,
)
from jaxgpt.corpus.documents.partition import gather_partitions
from jaxgpt.corpus.documents.splits import SPLITS, Assignment, HashAssignment
from jaxgpt.corpus.execution.progress import BuildProgress
from jaxgpt.corpus.execution.tasks import Task, TaskRunner, combined_key
from jaxgpt.corpus.existing import has_part
from jaxgpt.corpus.finalize import BuildResult, finalize_dataset, summarize_benchmarks
from jaxgpt.corpus.input_checks import check_left
from jaxgpt.corpus.processing import ExistingDocuments, Processing
from jaxgpt.corpus.readers.sources import Inputs, find_inputs
from jaxgpt.corpus.readers.text_estimate import TextEstimate, estimate_text
from jaxgpt.corpus.stages.encode import Stored, write_shards
from jaxgpt.corpus.stages.exclude_taken_down import (
    TAKEDOWN_OPERATION,
    leave_out_taken_down,
    list_taken_down,
)
from jaxgpt.corpus.stages.read import batches_of, plan_num_partitions
from jaxgpt.corpus.stages.restore import plan_index_ranges, restore_documents
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from jaxgpt.data.manifest import TOKENIZER_FOLDER, Shard
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import MismatchError
from jaxgpt.stop_signal import StopSignal
from jaxgpt.storage.durable import FolderLock
from jaxgpt.tokenizer.tokenizer import FILE_NAME as TOKENIZER_FILE

logger = logging.getLogger(__name__)

APPEND_WORK = ".append"


def append_to_dataset(
    arguments: Sequence[str], dataset: Path, config: DatasetConfig
) -> dict[str, Any]:
    """Add the text that `arguments` name to a finished dataset; return the new manifest.

    Goes on with an append that was interrupted; until it is finished, the dataset is what it was.
    Text that was appended with the same settings before is left alone.

    Args:
        arguments: files, folders, globs and fsspec URLs.
        dataset: the dataset folder.
        config: as `part_settings.recorded_config`, perhaps with changes for the new text.

    Raises:
        UsageError: an argument names nothing; there is no dataset, or it is in use.
        MismatchError: it cannot be added to, or not with these settings.
        BadInputError: too many bad records, or no file that can be read.
        InterruptedByUser, UnfinishedError: a signal came; running again continues.
    """
    TokenDataset.open(dataset)
    inputs = find_inputs(arguments, dataset, config.sources.exclude)
    with FolderLock(dataset), StopSignal() as stop:
        finish_version(dataset)
        stored = TokenDataset.open(dataset)
        account, assignment = read_account(dataset)
        check_settings(stored, config)
        if not isinstance(assignment, HashAssignment):
            raise MismatchError(
                f"{dataset} has one document in both training and validation; only a dataset that "
                "is split by whole documents (split=HashSplit) can be appended to: build it "
                "again from all text"
            )
        if has_part(dataset, inputs, settings_of_parts(account), changed_settings(stored, config)):
            logger.info("%s has this text already; nothing to do", dataset)
        else:
            work, tally = dataset / APPEND_WORK, account.tally
            needed = forecast_restoring(tally.num_kept, tally.kept_bytes, config)
            text = estimate_text(inputs.files, config.sources)
            needed |= forecast_build(text, config)
            check_disk_space(dataset, work, needed, config)
            with (
                explaining_full_disk(dataset, work, needed),
                contextlib.closing(config.executor.build()) as executor,
            ):
                # Workers elsewhere need a path that is right from wherever they run.
                progress = BuildProgress(stop)
                stages = TaskRunner(work.resolve(), executor, progress)
                _append(inputs, text, stored, (account, assignment), config, stages, progress)
        shutil.rmtree(dataset / APPEND_WORK, ignore_errors=True)
        return TokenDataset.open(dataset).manifest


def _append(
    inputs: Inputs,
    text: TextEstimate,
    stored: TokenDataset,
    known: tuple[Account, Assignment],
    config: DatasetConfig,
    stages: TaskRunner,
    progress: BuildProgress,
) -> None:
    """All stages in their order."""
    account, assignment = known
    tally = account.tally
    num_partitions = plan_num_partitions(text.add(tally.kept_bytes, tally.num_kept))
    older = _restore(stored, config, num_partitions, stages)
    documents = Processing(inputs, config, stages, num_partitions)
    documents.read(tally)
    _leave_out_taken_down(documents, stored, account, stages)
    documents.remove_duplicates(older)
    documents.apply_steps("filter_documents", [config.filters])
    documents.apply_steps("edit_documents", [config.privacy, config.decontamination])
    documents.remove_near_duplicates(older)
    documents.measure()
    if not inputs.files:
        check_left(documents.account.tally, inputs)
    documents.weigh(assignment)
    tokenizer_file = stored.directory.resolve() / TOKENIZER_FOLDER / TOKENIZER_FILE
    key = f"{documents.key} {stored.manifest['tokenizer']['sha256']} {assignment.to_json()}"
    encoded = documents.encode(assignment, tokenizer_file, key)
    with next_version(stored.directory) as folder:
        progress.begin("writing shards", documents.account.tally.kept_bytes)
        shards = _write_shards(folder, stored, encoded, config, progress)
        part = 1 + sum(entry["operation"] == APPEND_OPERATION for entry in account.history)
        documents.account.history.append(_entry(part, stored, documents.account, config))
        account.add(documents.account)
        result = BuildResult(
            name=stored.directory.resolve().name,
            settings=stored.manifest["settings"],
            benchmarks=_benchmarks(stored, account, config),
            account=account,
            assignment=assignment,
            shards=shards,
            tokenizer=stored.load_tokenizer(),
            files=_files(stored.directory, documents.files, part),
            removed=[
                stored.directory / REMOVED_NAME,
                *(done.folder / REMOVED_NAME for done in documents.removing),
            ],
        )
        finalize_dataset(folder, result)


def _restore(
    stored: TokenDataset, config: DatasetConfig, num_partitions: int, stages: TaskRunner
) -> ExistingDocuments:
    """The documents that are there already."""
    with_text = config.near_duplicates.enabled
    tasks = [
        Task(
            name=f"{number:05d}",
            depends_on=[
                stored.manifest["fingerprint"],
                dataclasses.astuple(piece),
                [num_partitions, config.seed, with_text],
            ],
            arguments=(
                stored.directory.resolve(),
                piece,
                num_partitions,
                config.seed,
                with_text,
            ),
            num_bytes=piece.num_bytes,
        )
        for number, piece in enumerate(plan_index_ranges(stored))
    ]
    done = stages.run("restoring stored documents", restore_documents, tasks)
    partitions = gather_partitions(map(batches_of, done), num_partitions)
    return ExistingDocuments(partitions=partitions, key=combined_key(done))


def _leave_out_taken_down(
    documents: Processing, stored: TokenDataset, account: Account, stages: TaskRunner
) -> None:
    """Texts that were taken down must not come back."""
    num_takedowns = sum(entry["operation"] == TAKEDOWN_OPERATION for entry in account.history)
    if not num_takedowns:
        return
    removed = stored.directory.resolve() / REMOVED_NAME
    task = Task(
        name="hashes",
        depends_on=[stored.manifest["fingerprint"], num_takedowns],
        arguments=(removed,),
        num_bytes=1,
    )
    (listed,) = stages.run("listing earlier takedowns", list_taken_down, [task])
    documents.leave_out(
        "excluding documents of earlier takedowns",
        leave_out_taken_down,
        listed.folder,
        depends_on=listed.key,
    )


def _write_shards(
    folder: Path,
    stored: TokenDataset,
    encoded: Sequence[Path],
    config: DatasetConfig,
    progress: BuildProgress,
) -> dict[str, list[Shard]]:
    """The shards of the dataset with those that are added."""
    splits = stored.splits
    history = stored.manifest.get("history", ())
    first_shards = {name: first_free_number(name, splits[name].shards, history) for name in SPLITS}
    added = write_shards(
        stored.directory,
        encoded,
        stored.load_tokenizer(),
        config.shards.max_tokens,
        progress.advance,
        Stored(dataset=stored.directory, indexes=folder, first_shards=first_shards),
    )
    progress.finish()
    return {name: [*splits[name].shards, *added[name]] for name in SPLITS}


def _entry(
    part: int, stored: TokenDataset, account: Account, config: DatasetConfig
) -> dict[str, Any]:
    """What the manifest tells of an append."""
    tally = account.tally
    return {
        "operation": APPEND_OPERATION,
        "part": part,
        "fingerprint_before": stored.manifest["fingerprint"],
        "read": tally.num_read,
        "kept": tally.num_kept,
        "dropped": dict(sorted(tally.dropped.items())),
        "read_bytes": tally.read_bytes,
        "dropped_bytes": dict(sorted(tally.dropped_bytes.items())),
        "num_bytes": tally.kept_bytes,
        "num_tokens": sum(source.num_tokens for source in tally.sources.values()),
        "num_files": account.num_files,
        "settings": changed_settings(stored, config),
    }


def _files(
    dataset: Path, files: Sequence[Mapping[str, Any]], part: int
) -> Iterator[Mapping[str, Any]]:
    yield from read_listing(dataset / INPUTS_NAME)
    for file in files:
        yield {**file, "part": part}


def _benchmarks(
    stored: TokenDataset, account: Account, config: DatasetConfig
) -> list[dict[str, Any]]:
    """What was found of evaluation files; of those that are read no more, as it was told."""
    summary = summarize_benchmarks(account, config)
    names = {entry["file"] for entry in summary}
    return [
        *(entry for entry in stored.manifest["benchmarks"] if entry["file"] not in names),
        *summary,
    ]
