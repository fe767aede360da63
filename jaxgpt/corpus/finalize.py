"""Files of a finished dataset in addition to its shards; the manifest is written last."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import zstandard

from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.dataset.listings import INPUTS_NAME
from jaxgpt.corpus.documents.document import RemovedWriter
from jaxgpt.corpus.documents.splits import Assignment, TailAssignment
from jaxgpt.corpus.filters.decontamination import Decontamination, summarize
from jaxgpt.corpus.report.licenses import list_licenses
from jaxgpt.corpus.report.page import write_reports
from jaxgpt.corpus.stats.account import Account, write_account
from jaxgpt.corpus.stats.counts import DocumentCounts
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from jaxgpt.data.manifest import Shard, write_manifest
from jaxgpt.tokenizer.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildResult:
    """Facts about a build at its end.

    Attributes:
        name: of the dataset, for people.
        settings: as the manifest has them.
        benchmarks: results for evaluation files, from `summarize`.
        assignment: division of documents between the splits.
        files: the input files, as they are to be listed.
        removed: lists of removed documents, in order.
    """

    name: str
    settings: Mapping[str, Any]
    benchmarks: Sequence[Mapping[str, Any]]
    account: Account
    assignment: Assignment
    shards: Mapping[str, Sequence[Shard]]
    tokenizer: Tokenizer
    files: Iterable[Mapping[str, Any]]
    removed: Sequence[Path]


def finalize_dataset(output: Path, result: BuildResult) -> dict[str, Any]:
    """Write all remaining files, the manifest last; return the manifest."""
    account = result.account
    account.check()
    _write_removed(output / REMOVED_NAME, result.removed)
    _write_inputs(output / INPUTS_NAME, result.files)
    write_account(output, account, result.assignment)
    about = _about(output, result)
    write_reports(
        output,
        result.name,
        about,
        {name: tuple(shards) for name, shards in result.shards.items()},
        result.tokenizer.describe(),
        account.tally.samples,
        account.near_duplicate_examples,
        account.measures.get("extremes", {}),
    )
    return write_manifest(output, result.tokenizer, dict(result.shards), about)


def summarize_benchmarks(account: Account, config: DatasetConfig) -> list[dict[str, Any]]:
    """Return the results for the evaluation files that a config names."""
    counts = account.step_counts.get(Decontamination.stage, {})
    return summarize(config.decontamination, counts)


def _write_removed(path: Path, listings: Iterable[Path]) -> None:
    """Write lists of removed documents as one."""
    with _appearing_whole(path) as temporary, RemovedWriter(temporary) as removed:
        for listing in listings:
            removed.copy(listing)


def _write_inputs(path: Path, files: Iterable[Mapping[str, Any]]) -> None:
    """Write the list of input files."""
    with (
        _appearing_whole(path) as temporary,
        open(temporary, "wb") as file,
        zstandard.ZstdCompressor().stream_writer(file, closefd=False) as stream,
    ):
        for entry in files:
            stream.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")


def _about(output: Path, result: BuildResult) -> dict[str, Any]:
    """Return the descriptive part of a manifest, which reading does not need."""
    account, assignment = result.account, result.assignment
    is_tail = isinstance(assignment, TailAssignment)
    return {
        **_describe_documents(account),
        "licenses": list_licenses(output, is_tail, account.tally.sources),
        "inputs": {
            "num_files": account.num_files,
            "num_bytes": account.num_file_bytes,
            "problems": dict(sorted(account.problems.items())),
            "skipped": dict(sorted(account.skipped.items())),
        },
        "near_duplicates": dict(account.near_duplicate_counts),
        "benchmarks": list(result.benchmarks),
        "repaired": _describe_repairs(account.tally),
        "measures": {name: bins for name, bins in account.measures.items() if name != "extremes"},
        "split_note": assignment.note,
        "history": account.history,
        "settings": dict(result.settings),
    }


def _describe_documents(account: Account) -> dict[str, Any]:
    """Return documents and bytes by what became of them, and by source."""
    tally = account.tally
    return {
        "counts": {
            "read": tally.num_read,
            "kept": tally.num_kept,
            "dropped": dict(sorted(tally.dropped.items())),
        },
        "bytes": {
            "read": tally.read_bytes,
            "kept": tally.kept_bytes,
            "dropped": dict(sorted(tally.dropped_bytes.items())),
            "edited": dict(sorted(tally.edited_bytes.items())),
        },
        "edits": {
            stage: {
                "documents": count,
                "counts": dict(sorted(account.step_counts.get(stage, {}).items())),
            }
            for stage, count in sorted(tally.edited_documents.items())
        },
        "sources": [
            {"name": name, **source.to_json()} for name, source in sorted(tally.sources.items())
        ],
    }


def _describe_repairs(tally: DocumentCounts) -> dict[str, Any]:
    return {
        kind: {"documents": count, "places": tally.repaired_places[kind]}
        for kind, count in sorted(tally.repaired_documents.items())
    }


@contextlib.contextmanager
def _appearing_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` when all is written, else deleted."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
