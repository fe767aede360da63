"""Merge of small shards, as appends leave them, into full ones; the token sequence stays.

Documents, their order and their index are as before. The new shards lie next to the old ones until
the next version of the dataset takes its place, so that a kill leaves the old version or the new.

Axes: N documents of a split, S its shards.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.corpus.dataset.document_index import IndexWriter, index_rows
from jaxgpt.corpus.dataset.listings import INPUTS_NAME, read_listing
from jaxgpt.corpus.dataset.rewrite import Marked, rewrite_split
from jaxgpt.corpus.dataset.versions import (
    FREE_NUMBERS,
    finish_version,
    first_free_number,
    next_version,
)
from jaxgpt.corpus.disk_space import explaining_full_disk
from jaxgpt.corpus.documents.splits import Assignment
from jaxgpt.corpus.execution.progress import BuildProgress
from jaxgpt.corpus.finalize import BuildResult, finalize_dataset
from jaxgpt.corpus.stats.account import Account, read_account
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from jaxgpt.data.manifest import Shard
from jaxgpt.data.shards import TokenDataset
from jaxgpt.stop_signal import StopSignal
from jaxgpt.storage.durable import FolderLock

logger = logging.getLogger(__name__)

MERGE_OPERATION = "merge"


def merge_shards(directory: Path) -> dict[str, Any]:
    """Write neighbouring shards that are less than half full as full ones; return the manifest.

    Args:
        directory: a finished dataset; `shards.max_tokens` of its settings says what full is.

    Raises:
        UsageError: there is no dataset, or it is in use.
        MismatchError: the dataset is damaged, or has no account.
        InterruptedByUser, UnfinishedError: a signal came; nothing has changed.
    """
    TokenDataset.open(directory)
    with FolderLock(directory), StopSignal() as stop, explaining_full_disk(directory):
        finish_version(directory)
        dataset = TokenDataset.open(directory)
        account, assignment = read_account(directory)
        max_tokens = dataset.manifest["settings"]["shards"]["max_tokens"]
        marked = {name: _mark_none(dataset, name) for name in dataset.splits}
        is_merged = {
            name: find_mergeable(marked[name], split.shards, max_tokens)
            for name, split in dataset.splits.items()
        }
        if not any(is_merged_S.any() for is_merged_S in is_merged.values()):
            logger.info("%s has no neighbouring shards to merge; nothing to do", directory)
            return dataset.manifest
        _merge(dataset, (account, assignment), marked, is_merged, BuildProgress(stop))
        return TokenDataset.open(directory).manifest


def find_mergeable(marked: Marked, shards: Sequence[Shard], max_tokens: int) -> np.ndarray:
    """Return which shards are written again: bool [S]. These are runs of at least two shards that
    are less than half full and share no document with another shard.
    """
    sizes_S = np.array([shard.num_tokens for shard in shards], np.int64)
    ends_S = np.cumsum(sizes_S)
    is_whole_S = np.isin(ends_S, marked.ends_N) & np.isin(ends_S - sizes_S, marked.starts_N)
    is_small_S = (2 * sizes_S < max_tokens) & is_whole_S
    follows_S, leads_S = np.zeros_like(is_small_S), np.zeros_like(is_small_S)
    follows_S[1:] = is_small_S[:-1]
    leads_S[:-1] = is_small_S[1:]
    return is_small_S & (follows_S | leads_S)


def _mark_none(dataset: TokenDataset, split: str) -> Marked:
    """Return the places of the documents of a split; all of them stay."""
    tokens, sizes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for batch in index_rows(dataset.directory, split):
        tokens.append(batch.column("num_tokens").to_numpy())
        sizes.append(batch.column("num_bytes").to_numpy())
    ends_N = np.cumsum(np.concatenate(tokens))
    return Marked(goes_N=np.zeros(len(ends_N), bool), ends_N=ends_N, bytes_N=np.concatenate(sizes))


def _merge(
    dataset: TokenDataset,
    known: tuple[Account, Assignment],
    marked: dict[str, Marked],
    is_merged: dict[str, np.ndarray],
    progress: BuildProgress,
) -> None:
    """Write the next version of the dataset, and put it in place."""
    directory, tokenizer = dataset.directory, dataset.load_tokenizer()
    account, assignment = known
    max_tokens = dataset.manifest["settings"]["shards"]["max_tokens"]
    with next_version(directory) as folder:
        progress.begin(
            "merging shards",
            sum(
                shard.num_bytes
                for name, split in dataset.splits.items()
                for shard, is_one in zip(split.shards, is_merged[name], strict=True)
                if is_one
            ),
        )
        shards = {
            name: rewrite_split(
                dataset, name, marked[name], is_merged[name], tokenizer, max_tokens,
                progress.advance,
            )
            for name in dataset.splits
        }  # fmt: skip
        progress.finish()
        for name in dataset.splits:
            with IndexWriter(folder / name) as index:
                index.copy(directory, name)
        history = dataset.manifest.get("history", ())
        account.history.append(
            {
                "operation": MERGE_OPERATION,
                "fingerprint_before": dataset.manifest["fingerprint"],
                "num_shards_before": {
                    name: len(split.shards) for name, split in dataset.splits.items()
                },
                "num_shards": {name: len(those) for name, those in shards.items()},
                FREE_NUMBERS: {
                    name: first_free_number(name, [*split.shards, *shards[name]], history)
                    for name, split in dataset.splits.items()
                },
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
            removed=[directory / REMOVED_NAME],
        )
        finalize_dataset(folder, result)
