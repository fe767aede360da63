"""Adding new text to a finished dataset, as if it had been there when the dataset was built.

    restore_documents       stored tokens -> the documents of the dataset, in partitions
    read_documents          new files -> repaired documents, in as many partitions
    exclude_taken_down      what was taken down from the dataset is dropped
    remove_duplicates       one of each text is kept, and none that the dataset has
    filter_documents        documents that are not good enough are dropped
    edit_documents          private data is taken out, benchmark texts are dropped
    remove_near_duplicates  none that is nearly the same as a stored or another new one is kept
    measure_documents       what documents are like, for the report
    weigh_sources           documents of some sources are dropped or repeated
    encode_documents        texts -> token ids, with the dataset's tokenizer, in final order
    write_shards            token ids -> further shards
    finalize_dataset        the files that tell of all documents, the manifest

Stored documents and their shards stay as they are. Edits come before near duplicates, other than
in a build: stored texts are edited, and are to be compared with the like.

What lies in `.append` is from an append that goes on when it is started again.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from jaxgpt.corpus.documents.splits import SPLITS, Assignment, HashAssignment
from jaxgpt.corpus.execution.progress import BuildProgress
from jaxgpt.corpus.execution.tasks import TaskRunner
from jaxgpt.corpus.existing import has_part
from jaxgpt.corpus.finalize import BuildResult, finalize_dataset, summarize_benchmarks
from jaxgpt.corpus.readers.sources import Inputs, find_inputs
from jaxgpt.corpus.readers.text_estimate import estimate_text
from jaxgpt.corpus.stages.documents import EncodedDocuments
from jaxgpt.corpus.stages.encode import Stored, encode_documents, write_shards
from jaxgpt.corpus.stages.exact_duplicates import remove_duplicates
from jaxgpt.corpus.stages.exclude_taken_down import exclude_taken_down
from jaxgpt.corpus.stages.filter import edit_documents, filter_documents
from jaxgpt.corpus.stages.measure import measure_documents
from jaxgpt.corpus.stages.mixture import weigh_sources
from jaxgpt.corpus.stages.near_duplicates import remove_near_duplicates
from jaxgpt.corpus.stages.read import ReadPlan, plan_num_partitions, read_documents
from jaxgpt.corpus.stages.restore import restore_documents
from jaxgpt.corpus.stages.train_tokenizer import TokenizerFile
from jaxgpt.corpus.stats.account import Account, read_account
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from jaxgpt.corpus.stats.input_checks import check_left
from jaxgpt.data.manifest import Shard
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import MismatchError
from jaxgpt.stop_signal import StopSignal
from jaxgpt.storage.durable import FolderLock

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
        config: as `append_settings.recorded_config`, perhaps with changes for the new text.

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
            _run(inputs, stored, (account, assignment), config, stop)
        shutil.rmtree(dataset / APPEND_WORK, ignore_errors=True)
        return TokenDataset.open(dataset).manifest


def _run(
    inputs: Inputs,
    stored: TokenDataset,
    known: tuple[Account, Assignment],
    config: DatasetConfig,
    stop: StopSignal,
) -> None:
    """Check that there is room, then append."""
    dataset, tally = stored.directory, known[0].tally
    work = dataset / APPEND_WORK
    text = estimate_text(inputs.files, config.sources)
    needed = forecast_restoring(tally.num_kept, tally.kept_bytes, config)
    needed |= forecast_build(text, config)
    check_disk_space(dataset, work, needed, config)
    with (
        explaining_full_disk(dataset, work, needed),
        contextlib.closing(config.executor.build()) as executor,
    ):
        # Workers elsewhere need a path that is right from wherever they run.
        progress = BuildProgress(stop)
        runner = TaskRunner(work.resolve(), executor, progress)
        num_partitions = plan_num_partitions(text.add(tally.kept_bytes, tally.num_kept))
        encoded = _process(inputs, stored, known, config, num_partitions, runner)
        _publish(encoded, stored, known, config, progress)


def _process(
    inputs: Inputs,
    stored: TokenDataset,
    known: tuple[Account, Assignment],
    config: DatasetConfig,
    num_partitions: int,
    runner: TaskRunner,
) -> EncodedDocuments:
    """Run all stages in their order, up to token ids."""
    account, assignment = known
    plan = ReadPlan(
        sources=config.sources,
        repair=config.repair,
        num_partitions=num_partitions,
        seed=config.seed,
    )
    with_text = config.near_duplicates.enabled
    existing = restore_documents(runner, stored, num_partitions, config.seed, with_text)
    documents = read_documents(runner, inputs, plan, config.mixture, account.tally)
    documents = exclude_taken_down(runner, documents, stored, account)
    documents = remove_duplicates(runner, documents, existing)
    documents = filter_documents(runner, documents, config.filters)
    documents = edit_documents(runner, documents, [config.privacy, config.decontamination])
    documents = remove_near_duplicates(runner, documents, config.near_duplicates, existing)
    documents = measure_documents(runner, documents)
    if not inputs.files:
        check_left(documents.account.tally, inputs)
    divided = weigh_sources(runner, documents, assignment, config.mixture, config.seed)
    tokenizer = TokenizerFile(
        path=stored.tokenizer_path.resolve(),
        key=stored.manifest["tokenizer"]["sha256"],
    )
    return encode_documents(runner, divided, tokenizer)


def _publish(
    encoded: EncodedDocuments,
    stored: TokenDataset,
    known: tuple[Account, Assignment],
    config: DatasetConfig,
    progress: BuildProgress,
) -> None:
    """Write the next version of the dataset, and put it in place."""
    account, assignment = known
    part = 1 + sum(entry["operation"] == APPEND_OPERATION for entry in account.history)
    with next_version(stored.directory) as folder:
        shards = _write_shards(folder, stored, encoded, config, progress)
        account.add(encoded.documents.account)
        account.history.append(_entry(part, stored, encoded.documents.account, config))
        result = BuildResult(
            name=stored.directory.resolve().name,
            settings=stored.manifest["settings"],
            benchmarks=_benchmarks(stored, account, config),
            account=account,
            assignment=assignment,
            shards=shards,
            tokenizer=stored.load_tokenizer(),
            files=_files(stored.directory, encoded.documents.files, part),
            removed=[stored.directory / REMOVED_NAME, *encoded.documents.drop_logs],
        )
        finalize_dataset(folder, result)


def _write_shards(
    folder: Path,
    stored: TokenDataset,
    encoded: EncodedDocuments,
    config: DatasetConfig,
    progress: BuildProgress,
) -> dict[str, list[Shard]]:
    """Return the shards of the dataset with those that are added."""
    splits = stored.splits
    history = stored.manifest.get("history", ())
    first_shards = {name: first_free_number(name, splits[name].shards, history) for name in SPLITS}
    progress.begin("writing shards", encoded.documents.account.tally.kept_bytes)
    added = write_shards(
        stored.directory,
        encoded.folders,
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
    """Return the entry of an append in the manifest's history."""
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
    """Return the overlap with evaluation files; entries of files no longer configured stay."""
    summary = summarize_benchmarks(account, config)
    names = {entry["file"] for entry in summary}
    return [
        *(entry for entry in stored.manifest["benchmarks"] if entry["file"] not in names),
        *summary,
    ]
