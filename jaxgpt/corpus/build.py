"""The order of the stages, from input files to a finished dataset folder.

    read_part           files -> repaired documents, in partitions by content hash
    remove_duplicates   a partition -> which of its documents are kept
    filter_documents    a partition -> the documents that are good enough
    dedup/near/         all partitions -> which documents repeat another one that is kept
    edit_documents      a partition -> without private data and benchmark texts
    measure_partition   some partitions -> what their documents are like, for the report
    weigh_partition     a partition -> documents of some sources fewer or several times
    settle_vocabulary   training text -> tokenizer
    encode_partition    a partition -> token ids, in final order
    write_shards        token ids -> shards; then removed.jsonl.zst, the report, the manifest

How each stage is carried out is in `processing.py`. All results of stages lie in `.work` in the
dataset folder until the manifest is written; see `execution/tasks.py` for how an interrupted build
goes on, and `execution/` for who does the work.
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
from jaxgpt.corpus.input_checks import check_left
from jaxgpt.corpus.processing import Processing
from jaxgpt.corpus.readers.sources import Inputs, find_inputs
from jaxgpt.corpus.readers.text_estimate import TextEstimate, estimate_text
from jaxgpt.corpus.stages.encode import write_shards
from jaxgpt.corpus.stages.read import plan_num_partitions
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from jaxgpt.data.manifest import MANIFEST, TOKENIZER_FOLDER, Shard
from jaxgpt.errors import BadInputError
from jaxgpt.stop_signal import StopSignal
from jaxgpt.storage.durable import FolderLock
from jaxgpt.tokenizer.tokenizer import FILE_NAME as TOKENIZER_FILE
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
    """All stages in their order."""
    # Workers elsewhere need a path that is right from wherever they run.
    stages = TaskRunner((output / WORK).resolve(), executor, progress)
    documents = Processing(inputs, config, stages, plan_num_partitions(text))
    documents.read()
    documents.remove_duplicates()
    documents.apply_steps("filter_documents", [config.filters])
    documents.remove_near_duplicates()
    documents.apply_steps("edit_documents", [config.privacy, config.decontamination])
    check_left(documents.account.tally, inputs)
    documents.measure()
    assignment = config.split.plan(documents.hashes(), config.seed)
    if assignment.note:
        logger.info("%s", assignment.note)
    documents.weigh(assignment)
    vocabulary = documents.settle_vocabulary(assignment, given_tokenizer)
    tokenizer_file = vocabulary.folder / TOKENIZER_FILE
    encoded = documents.encode(assignment, tokenizer_file, vocabulary.key)
    tokenizer = Tokenizer.load(tokenizer_file)
    progress.begin("writing shards", documents.account.tally.kept_bytes)
    shards = _write_shards(output, encoded, tokenizer, config, progress)
    result = BuildResult(
        name=output.resolve().name,
        settings=recorded_settings(config),
        benchmarks=summarize_benchmarks(documents.account, config),
        account=documents.account,
        assignment=assignment,
        shards=shards,
        tokenizer=tokenizer,
        files=documents.files,
        removed=[done.folder / REMOVED_NAME for done in documents.removing],
    )
    return finalize_dataset(output, result)


def _write_shards(
    output: Path,
    encoded: Sequence[Path],
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
    shards = write_shards(output, encoded, tokenizer, config.shards.max_tokens, progress.advance)
    progress.finish()
    if not shards["train"]:
        raise BadInputError("no training text is left; give more text, or raise mixture.weights")
    if not shards["val"]:
        raise BadInputError(
            "there is too little text to hold any out for validation; give more text"
        )
    return shards
