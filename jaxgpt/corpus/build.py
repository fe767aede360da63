"""The recipe of a build: its stages in order, from input files to a finished dataset folder.

    read_documents          files -> repaired documents, in partitions by content hash
    remove_duplicates       one of each text is kept
    filter_documents        documents that are not good enough are dropped
    remove_near_duplicates  one of texts that are nearly the same is kept
    edit_documents          private data is taken out, benchmark texts are dropped
    measure_documents       what documents are like, for the report
    weigh_sources           documents of some sources are dropped or repeated
    provide_tokenizer       training text -> tokenizer
    encode_documents        texts -> token ids, in final order
    write_shards            token ids -> shards
    finalize_dataset        the list of dropped documents, the reports, the manifest

Each stage is one function in a file of `stages/`. All results lie in `.work` in the dataset
folder until the manifest is written; see `execution/tasks.py` for how an interrupted build goes on,
and `execution/` for what runs the tasks.
"""

import contextlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.dataset.versions import finish_version
from jaxgpt.corpus.disk_space import check_disk_space, explaining_full_disk, forecast_build
from jaxgpt.corpus.documents.splits import SPLITS
from jaxgpt.corpus.execution.executor import Executor
from jaxgpt.corpus.execution.progress import BuildProgress
from jaxgpt.corpus.execution.tasks import TaskRunner
from jaxgpt.corpus.existing import check_finished, recorded_settings, refuse_foreign_folder
from jaxgpt.corpus.finalize import BuildResult, finalize_dataset, summarize_benchmarks
from jaxgpt.corpus.readers.sources import Inputs, find_inputs
from jaxgpt.corpus.readers.text_estimate import TextEstimate, estimate_text
from jaxgpt.corpus.stages.documents import EncodedDocuments
from jaxgpt.corpus.stages.encode import encode_documents, write_shards
from jaxgpt.corpus.stages.exact_duplicates import remove_duplicates
from jaxgpt.corpus.stages.filter import edit_documents, filter_documents
from jaxgpt.corpus.stages.measure import measure_documents
from jaxgpt.corpus.stages.mixture import weigh_sources
from jaxgpt.corpus.stages.near_duplicates import remove_near_duplicates
from jaxgpt.corpus.stages.read import ReadPlan, plan_num_partitions, read_documents
from jaxgpt.corpus.stages.train_tokenizer import provide_tokenizer
from jaxgpt.corpus.stats.input_checks import check_left
from jaxgpt.data.manifest import MANIFEST, TOKENIZER_FOLDER, Shard
from jaxgpt.errors import BadInputError
from jaxgpt.stop_signal import StopSignal
from jaxgpt.storage.durable import FolderLock
from jaxgpt.tokenizer.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

WORK = ".work"


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
            finish_version(output)
            manifest = check_finished(output, config, inputs)
            shutil.rmtree(work, ignore_errors=True)
            logger.info("%s is finished already; nothing to do", output)
            return manifest
        refuse_foreign_folder(output, WORK)
        text = estimate_text(inputs.files, config.sources)
        needed = forecast_build(text, config)
        check_disk_space(output, work, needed, config)
        with (
            explaining_full_disk(output, work, needed),
            contextlib.closing(config.executor.build()) as executor,
        ):
            manifest = _build(inputs, text, output, config, given, executor, BuildProgress(stop))
        shutil.rmtree(work)
        return manifest


def _build(
    inputs: Inputs,
    text: TextEstimate,
    output: Path,
    config: DatasetConfig,
    given_tokenizer: Tokenizer | None,
    executor: Executor,
    progress: BuildProgress,
) -> dict[str, Any]:
    """Run all stages in their order; return the manifest."""
    # Workers elsewhere need a path that is right from wherever they run.
    runner = TaskRunner((output / WORK).resolve(), executor, progress)
    plan = ReadPlan(
        sources=config.sources,
        repair=config.repair,
        num_partitions=plan_num_partitions(text),
        seed=config.seed,
    )
    documents = read_documents(runner, inputs, plan, config.mixture)
    documents = remove_duplicates(runner, documents)
    documents = filter_documents(runner, documents, config.filters)
    documents = remove_near_duplicates(runner, documents, config.near_duplicates)
    documents = edit_documents(runner, documents, [config.privacy, config.decontamination])
    check_left(documents.account.tally, inputs)
    documents = measure_documents(runner, documents)
    assignment = config.split.plan(documents.hashes(), config.seed)
    if assignment.note:
        logger.info("%s", assignment.note)
    divided = weigh_sources(runner, documents, assignment, config.mixture, config.seed)
    tokenizer_file = provide_tokenizer(runner, divided, config.tokenizer, given_tokenizer)
    encoded = encode_documents(runner, divided, tokenizer_file)
    tokenizer = Tokenizer.load(tokenizer_file.path)
    shards = _write_shards(output, encoded, tokenizer, config, progress)
    account = encoded.documents.account
    result = BuildResult(
        name=output.resolve().name,
        settings=recorded_settings(config),
        benchmarks=summarize_benchmarks(account, config),
        account=account,
        assignment=assignment,
        shards=shards,
        tokenizer=tokenizer,
        files=encoded.documents.files,
        removed=encoded.documents.drop_logs,
    )
    return finalize_dataset(output, result)


def _write_shards(
    output: Path,
    encoded: EncodedDocuments,
    tokenizer: Tokenizer,
    config: DatasetConfig,
    progress: BuildProgress,
) -> dict[str, list[Shard]]:
    # Without a manifest, whatever lies here is from a build that did not get to its end.
    for name in (*SPLITS, TOKENIZER_FOLDER):
        shutil.rmtree(output / name, ignore_errors=True)
    for path in output.glob(".*.tmp"):
        path.unlink()
    tokenizer.save(output / TOKENIZER_FOLDER)
    progress.begin("writing shards", encoded.documents.account.tally.kept_bytes)
    max_tokens = config.shards.max_tokens
    shards = write_shards(output, encoded.folders, tokenizer, max_tokens, progress.advance)
    progress.finish()
    if not shards["train"]:
        raise BadInputError("no training text is left; give more text, or raise mixture.weights")
    if not shards["val"]:
        raise BadInputError(
            "there is too little text to hold any out for validation; give more text"
        )
    return shards
