"""The files of a finished dataset beside its shards; the manifest is the last of them."""

import contextlib
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import zstandard

from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.decontamination import Decontamination, summarize
from jaxgpt.corpus.document import RemovedWriter
from jaxgpt.corpus.finished import INPUTS_NAME, recorded_settings
from jaxgpt.corpus.removal import REMOVED_NAME
from jaxgpt.corpus.report import write_reports
from jaxgpt.corpus.sources import Inputs
from jaxgpt.corpus.stages import Done
from jaxgpt.corpus.tally import Tally
from jaxgpt.dataset_manifest import Shard, write_manifest
from jaxgpt.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that is known at the end of a build.

    Attributes:
        step_counts: what filters and edits counted, by their stage.
        near_duplicates: counts and examples of `NearDuplicates`; empty if none were looked for.
        lengths: documents by the number of bits of their length in bytes.
        split_note: what a user should know about the split; or "".
        read: results of the first stage.
        removing: results of all stages that removed documents, in order.
    """

    config: DatasetConfig
    inputs: Inputs
    tally: Tally
    step_counts: Mapping[str, Mapping[str, int]]
    near_duplicates: Mapping[str, Any]
    lengths: Mapping[int, int]
    split_note: str
    shards: Mapping[str, Sequence[Shard]]
    tokenizer: Tokenizer
    read: Sequence[Done]
    removing: Sequence[Done]


def write_outcome(output: Path, outcome: Outcome) -> dict[str, Any]:
    """Write everything that is left to write, the manifest last; return the manifest."""
    outcome.tally.check()
    with (
        _appearing_whole(output / REMOVED_NAME) as path,
        RemovedWriter(path) as removed,
    ):
        for done in outcome.removing:
            removed.copy(done.folder / REMOVED_NAME)
    with (
        _appearing_whole(output / INPUTS_NAME) as path,
        open(path, "wb") as file,
        zstandard.ZstdCompressor().stream_writer(file, closefd=False) as stream,
    ):
        for entry in _input_files(outcome.read):
            stream.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
    about = _about(outcome)
    write_reports(
        output,
        about,
        {name: tuple(shards) for name, shards in outcome.shards.items()},
        outcome.tokenizer.describe(),
        outcome.lengths,
        outcome.tally.samples,
        outcome.near_duplicates.get("examples", []),
    )
    return write_manifest(output, outcome.tokenizer, dict(outcome.shards), about)


def _about(outcome: Outcome) -> dict[str, Any]:
    """What a manifest says beyond what reading a dataset needs."""
    tally = outcome.tally
    problems = Counter(
        entry["problem"] for entry in _input_files(outcome.read) if "problem" in entry
    )
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
                "counts": dict(sorted(outcome.step_counts.get(stage, {}).items())),
            }
            for stage, count in sorted(tally.edited_documents.items())
        },
        "sources": [
            {"name": name, **source.to_json()} for name, source in sorted(tally.sources.items())
        ],
        "inputs": {
            "num_files": len(outcome.inputs.files),
            "num_bytes": outcome.inputs.num_bytes,
            "problems": dict(sorted(problems.items())),
            "skipped": outcome.inputs.skipped,
        },
        "near_duplicates": outcome.near_duplicates.get("counts", {}),
        "benchmarks": summarize(
            outcome.config.decontamination, outcome.step_counts.get(Decontamination.stage, {})
        ),
        "repaired": {
            kind: {"documents": count, "places": tally.repaired_places[kind]}
            for kind, count in sorted(tally.repaired_documents.items())
        },
        "split_note": outcome.split_note,
        "settings": recorded_settings(outcome.config),
    }


def _input_files(read: Sequence[Done]) -> Iterator[dict[str, Any]]:
    for done in read:
        yield from done.result["files"]


@contextlib.contextmanager
def _appearing_whole(path: Path) -> Iterator[Path]:
    """A temporary path that takes the name `path` when all is written, or goes."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
