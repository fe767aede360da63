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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from jaxgpt.corpus.append import APPEND_WORK
from jaxgpt.corpus.build import WORK
from jaxgpt.corpus.dataset.document_index import IndexWriter, index_rows
from jaxgpt.corpus.dataset.listings import INPUTS_NAME, read_listing
from jaxgpt.corpus.dataset.rewrite import (
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
from jaxgpt.corpus.documents.document import RemovedWriter
from jaxgpt.corpus.documents.splits import Assignment, HashAssignment
from jaxgpt.corpus.execution.progress import BuildProgress
from jaxgpt.corpus.finalize import BuildResult, finalize_dataset
from jaxgpt.corpus.stages.exclude_taken_down import (
    TAKEDOWN_OPERATION,
    TAKEDOWN_REASON,
    TAKEDOWN_STAGE,
    TAKEN_DOWN_KEY,
)
from jaxgpt.corpus.stats.account import Account, read_account
from jaxgpt.corpus.stats.counts import OTHER_SOURCES, make_sample
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from jaxgpt.corpus.takedown.redaction import Scrubber
from jaxgpt.corpus.takedown.selection import Named, Takedown, find_named
from jaxgpt.data.manifest import Shard
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import BadInputError, JaxgptError, UsageError
from jaxgpt.stop_signal import StopSignal
from jaxgpt.storage.durable import FolderLock

logger = logging.getLogger(__name__)

_TAKEN_NAME = "taken.jsonl.zst"


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
        _Takedown(dataset, account, assignment, named, takedown).run(BuildProgress(stop))
        return TokenDataset.open(directory).manifest


class _Takedown:
    """One takedown, when it is known which documents go."""

    def __init__(
        self,
        dataset: TokenDataset,
        account: Account,
        assignment: Assignment,
        named: Named,
        takedown: Takedown,
    ) -> None:
        self._dataset = dataset
        self._account = account
        self._assignment = assignment
        self._named = named
        self._marked = named.marked
        self._takedown = takedown
        self._tokenizer = dataset.load_tokenizer()

    def run(self, progress: BuildProgress) -> None:
        """Write the next version of the dataset, and put it in place."""
        dataset, directory = self._dataset, self._dataset.directory
        with next_version(directory) as folder:
            progress.begin(
                "writing shards", sum(int(m.bytes_N.sum()) for m in self._marked.values())
            )
            shards = {}
            for split, marked in self._marked.items():
                max_tokens = dataset.manifest["settings"]["shards"]["max_tokens"]
                is_touched_S = touched_shards(marked, dataset.splits[split].shards)
                shards[split] = rewrite_split(
                    dataset,
                    split,
                    marked,
                    is_touched_S,
                    self._tokenizer,
                    max_tokens,
                    progress.advance,
                )
                with IndexWriter(folder / split) as index:
                    write_remaining_index(dataset, split, marked, index)
            progress.finish()
            taken = folder / _TAKEN_NAME
            self._settle_account(taken, shards)
            result = BuildResult(
                name=directory.resolve().name,
                settings=dataset.manifest["settings"],
                benchmarks=dataset.manifest["benchmarks"],
                account=self._account,
                assignment=self._assignment,
                shards=shards,
                tokenizer=self._tokenizer,
                files=read_listing(directory / INPUTS_NAME),
                removed=[taken],
            )
            finalize_dataset(folder, result)
            taken.unlink()

    def _settle_account(self, taken: Path, shards: Mapping[str, Sequence[Shard]]) -> None:
        """Count the documents as dropped, list them in `taken` after all that were removed before,
        and drop samples that show them.
        """
        account, tally = self._account, self._account.tally
        before = tally.num_kept, tally.kept_bytes, _num_tokens(account)
        ids: set[str] = set()
        sizes: Counter[tuple[bytes, str]] = Counter()
        with RemovedWriter(taken) as removed:
            self._copy_removed(removed)
            for row in self._rows_that_go():
                key = row["hash"], row["location"]
                if key in sizes and isinstance(self._assignment, HashAssignment):
                    _count_repeat(account, row)
                    continue
                _count(account, row, is_first=key not in sizes)
                if key not in sizes:
                    ids.add(row["id"])
                    names = {"id": row["id"], "location": row["location"]}
                    removed.write(
                        stage=TAKEDOWN_STAGE,
                        reason=TAKEDOWN_REASON,
                        hash=row["hash"].hex(),
                        **names,
                    )
                sizes[key] += row["num_bytes"]
        locations = {location for _, location in sizes}
        shown = locations | self._named.shown_locations
        scrubber = Scrubber(account, self._takedown.sources, shown)
        for split, marked in self._marked.items():
            for text in texts_that_go(self._dataset, split, marked, self._tokenizer):
                scrubber.look_in(text)
        num_samples = scrubber.scrub()
        names = self._takedown.names()
        account.history.append(
            {
                "operation": TAKEDOWN_OPERATION,
                "fingerprint_before": self._dataset.manifest["fingerprint"],
                "sources": sorted(set(self._takedown.sources)),
                **{f"num_{column}s": len(set(names[column])) for column in ("id", "location")},
                "names_sha256": _digest(names),
                "num_documents": before[0] - tally.num_kept,
                "num_bytes": before[1] - tally.kept_bytes,
                "num_tokens": before[2] - _num_tokens(account),
                "num_removed_before": self._named.num_removed_before,
                "num_copies_that_stay_out": _count_copies(self._dataset, ids, locations),
                "num_samples_removed": num_samples,
                FREE_NUMBERS: self._free_numbers(shards),
                "note": self._takedown.note,
            }
        )

    def _copy_removed(self, output: RemovedWriter) -> None:
        """Copy the lines of earlier removals; mark those of named documents."""
        listing = self._dataset.directory / REMOVED_NAME
        if not self._named.num_removed_before:
            output.copy(listing)
            return
        for entry in read_listing(listing):
            if self._named.is_removed_before(entry):
                entry[TAKEN_DOWN_KEY] = True
            output.write(**entry)

    def _free_numbers(self, shards: Mapping[str, Sequence[Shard]]) -> dict[str, int]:
        """Return, by split, the first number that no shard has had, removed ones included."""
        return {
            name: first_free_number(
                name, [*split.shards, *shards[name]], self._dataset.manifest.get("history", ())
            )
            for name, split in self._dataset.splits.items()
        }

    def _rows_that_go(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the indexes to remove; a document in both splits has one in each."""
        for split, marked in self._marked.items():
            start = 0
            for batch in index_rows(self._dataset.directory, split):
                goes = marked.goes_N[start : start + batch.num_rows]
                start += batch.num_rows
                yield from batch.filter(pa.array(goes)).to_pylist()


def _count(account: Account, row: Mapping[str, Any], is_first: bool) -> None:
    """Count a removed row of the index: the first of its document, or another share of its text."""
    tally, num_bytes = account.tally, row["num_bytes"]
    source = row["source"] if row["source"] in tally.sources else OTHER_SOURCES
    if is_first:
        sample = make_sample(row["location"], "", "")
        tally.count_dropped(source, TAKEDOWN_STAGE, TAKEDOWN_REASON, num_bytes, sample)
        tally.sources[source].kept -= 1
    else:
        tally.kept_bytes -= num_bytes
        tally.dropped_bytes[TAKEDOWN_REASON] += num_bytes
        tally.sources[source].dropped_bytes[TAKEDOWN_STAGE] += num_bytes
    tally.sources[source].num_bytes -= num_bytes
    tally.sources[source].num_tokens -= row["num_tokens"]


def _count_repeat(account: Account, row: Mapping[str, Any]) -> None:
    """Count a removed row of the index that is a second copy of its document."""
    tally = account.tally
    source = tally.sources[row["source"] if row["source"] in tally.sources else OTHER_SOURCES]
    source.num_repeats -= 1
    source.repeat_bytes -= row["num_bytes"]
    source.repeat_tokens -= row["num_tokens"]


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


def _num_tokens(account: Account) -> int:
    return sum(source.num_tokens for source in account.tally.sources.values())


def _digest(names: Mapping[str, Sequence[str]]) -> str:
    """Return SHA-256 of all names, so that a list can be recognised."""
    lines = [f"{column} {name}\n" for column, those in names.items() for name in sorted(set(those))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
