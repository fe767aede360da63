"""Takedown of documents from a finished dataset, by source, id or place in the input. Afterwards
the dataset folder holds none of their text: the shards that held them are written again, and
samples that show it are removed from the reports. Only id, location and content hash remain in
removed.jsonl.zst, so that an append does not bring them back. A document that had been removed
before is marked there; the account stays, for it was counted.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.corpus.append import APPEND_WORK
from jaxgpt.corpus.build import WORK
from jaxgpt.corpus.dataset.document_index import IndexWriter
from jaxgpt.corpus.dataset.listings import INPUTS_NAME, read_listing
from jaxgpt.corpus.dataset.rewrite import (
    Marked,
    rewrite_split,
    texts_that_go,
    touched_shards,
    write_remaining_index,
)
from jaxgpt.corpus.dataset.versions import (
    FREE_NUMBERS,
    finish_version,
    first_free_number,
    next_version,
)
from jaxgpt.corpus.dedup.exact import EXACT_DUPLICATE
from jaxgpt.corpus.dedup.near.apply import NEAR_DUPLICATE
from jaxgpt.corpus.disk_space import explaining_full_disk
from jaxgpt.corpus.documents.splits import Assignment
from jaxgpt.corpus.execution.progress import BuildProgress
from jaxgpt.corpus.finalize import BuildResult, finalize_dataset
from jaxgpt.corpus.stages.exclude_taken_down import (
    TAKEDOWN_OPERATION,
)
from jaxgpt.corpus.stats.account import Account, read_account
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from jaxgpt.corpus.takedown.listing import list_dropped
from jaxgpt.corpus.takedown.redaction import Scrubber
from jaxgpt.corpus.takedown.selection import Named, Takedown, find_named
from jaxgpt.data.manifest import Shard
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import BadInputError, JaxgptError, UsageError
from jaxgpt.stop_signal import StopSignal
from jaxgpt.storage.durable import FolderLock
from jaxgpt.tokenizer.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_DROPPED_NAME = "taken.jsonl.zst"


def take_down(directory: Path, takedown: Takedown) -> dict[str, Any]:
    """Take documents out of a finished dataset; return the new manifest.

    Until it is done the dataset is what it was. Documents that are out already are left alone.

    Raises:
        UsageError: nothing is named, or a name that the dataset does not have, or a document that
            was removed as a duplicate of one that stays; there is no dataset, or it is in use.
        MismatchError: the dataset is damaged, or has no account.
        BadInputError: nothing would be left of a split.
        JaxgptError: what an unfinished append or build has left cannot be deleted.
        InterruptedByUser, UnfinishedError: a signal came; the same call does it.
    """
    if not any(takedown.names().values()):
        raise UsageError("name the documents to take down: --source, --id or --location")
    TokenDataset.open(directory)
    with FolderLock(directory), StopSignal() as stop, explaining_full_disk(directory):
        finish_version(directory)
        dataset = TokenDataset.open(directory)
        account, assignment = read_account(directory)
        named = find_named(dataset, takedown)
        for split, each in named.marked.items():
            if each.goes_N.any() and each.goes_N.all():
                raise BadInputError(
                    f"nothing would be left of {split} in {directory}; a dataset needs text for "
                    f"training and for validation: build another one without these documents"
                )
        # What was prepared for an append holds the texts, too.
        for work in (WORK, APPEND_WORK):
            _delete(directory / work)
        if named.is_nothing:
            logger.info("%s holds none of these documents; nothing to do", directory)
            return dataset.manifest
        _write_next_version(dataset, (account, assignment), named, takedown, BuildProgress(stop))
        return TokenDataset.open(directory).manifest


def _write_next_version(
    dataset: TokenDataset,
    known: tuple[Account, Assignment],
    named: Named,
    takedown: Takedown,
    progress: BuildProgress,
) -> None:
    """Write the next version of the dataset, and put it in place."""
    directory, tokenizer = dataset.directory, dataset.load_tokenizer()
    account, assignment = known
    before = _totals(account)
    with next_version(directory) as folder:
        shards = _write_remaining(folder, dataset, named.marked, tokenizer, progress)
        dropped = folder / _DROPPED_NAME
        ids, locations = list_dropped(dropped, dataset, known, named)
        num_samples = _redact(account, dataset, named, takedown, locations, tokenizer)
        gone = {name: before[name] - num for name, num in _totals(account).items()}
        account.history.append(
            {
                "operation": TAKEDOWN_OPERATION,
                "fingerprint_before": dataset.manifest["fingerprint"],
                **_describe_names(takedown),
                **gone,
                "num_removed_before": named.num_removed_before,
                "num_copies_that_stay_out": _count_copies(dataset, ids, locations),
                "num_samples_removed": num_samples,
                FREE_NUMBERS: _free_numbers(dataset, shards),
                "note": takedown.note,
            }
        )
        result = BuildResult(
            name=directory.resolve().name,
            settings=dataset.manifest["settings"],
            benchmarks=dataset.manifest["benchmarks"],
            account=account,
            assignment=assignment,
            shards=shards,
            tokenizer=tokenizer,
            files=read_listing(directory / INPUTS_NAME),
            removed=[dropped],
        )
        finalize_dataset(folder, result)
        dropped.unlink()


def _write_remaining(
    folder: Path,
    dataset: TokenDataset,
    marked: Mapping[str, Marked],
    tokenizer: Tokenizer,
    progress: BuildProgress,
) -> dict[str, list[Shard]]:
    """Write shards and index of the documents that stay; return all shards of each split."""
    progress.begin("writing shards", sum(int(each.bytes_N.sum()) for each in marked.values()))
    max_tokens = dataset.manifest["settings"]["shards"]["max_tokens"]
    shards = {}
    for split, each in marked.items():
        is_touched_S = touched_shards(each, dataset.splits[split].shards)
        shards[split] = rewrite_split(
            dataset, split, each, is_touched_S, tokenizer, max_tokens, progress.advance
        )
        with IndexWriter(folder / split) as index:
            write_remaining_index(dataset, split, each, index)
    progress.finish()
    return shards


def _redact(
    account: Account,
    dataset: TokenDataset,
    named: Named,
    takedown: Takedown,
    locations: set[str],
    tokenizer: Tokenizer,
) -> int:
    """Drop samples that show text of the documents that go; return their number."""
    scrubber = Scrubber(account, takedown.sources, locations | named.shown_locations)
    for split, marked in named.marked.items():
        for text in texts_that_go(dataset, split, marked, tokenizer):
            scrubber.look_in(text)
    return scrubber.scrub()


def _free_numbers(dataset: TokenDataset, shards: Mapping[str, Sequence[Shard]]) -> dict[str, int]:
    """Return by split the first number that no shard has had, those that go included."""
    history = dataset.manifest.get("history", ())
    return {
        name: first_free_number(name, [*split.shards, *shards[name]], history)
        for name, split in dataset.splits.items()
    }


def _count_copies(dataset: TokenDataset, ids: set[str], locations: set[str]) -> int:
    """Count the documents that were removed in favour of one of these."""
    return sum(
        entry["kept_location"] in locations if "kept_location" in entry else entry["kept_id"] in ids
        for entry in read_listing(dataset.directory / REMOVED_NAME)
        if entry["reason"] in (EXACT_DUPLICATE, NEAR_DUPLICATE)
    )


def _delete(folder: Path) -> None:
    """Delete a folder, if there is one; what cannot be deleted is said."""
    try:
        if os.path.lexists(folder):
            shutil.rmtree(folder)
    except OSError as error:
        raise JaxgptError(
            f"cannot delete {error.filename or folder} ({error.strerror or error}), which may hold "
            f"text that is to be taken down, so nothing was taken down; delete {folder} yourself "
            f"and run the same command again"
        ) from error


def _totals(account: Account) -> dict[str, int]:
    """Return how many documents, bytes and tokens an account counts as kept."""
    tally = account.tally
    return {
        "num_documents": tally.num_kept,
        "num_bytes": tally.kept_bytes,
        "num_tokens": sum(source.num_tokens for source in tally.sources.values()),
    }


def _describe_names(takedown: Takedown) -> dict[str, Any]:
    """Return what the history says of the names: sources as they are, of others the number."""
    names = takedown.names()
    return {
        "sources": sorted(set(takedown.sources)),
        **{f"num_{column}s": len(set(names[column])) for column in ("id", "location")},
        "names_sha256": _digest(names),
    }


def _digest(names: Mapping[str, Sequence[str]]) -> str:
    """Return SHA-256 of all names, so that a list can be recognised."""
    lines = [f"{column} {name}\n" for column, those in names.items() for name in sorted(set(those))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
