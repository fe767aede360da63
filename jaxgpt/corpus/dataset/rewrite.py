"""Rewriting of a split without some documents; only the shards that held them are written again.

Axes: N documents of a split, S its shards.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from jaxgpt.corpus.dataset.document_index import (
    INDEX_SCHEMA,
    IndexWriter,
    index_groups,
    read_groups,
)
from jaxgpt.corpus.dataset.versions import first_free_number
from jaxgpt.data.manifest import Shard
from jaxgpt.data.shard_writer import ShardWriter
from jaxgpt.data.shards import TokenDataset, TokenSplit
from jaxgpt.tokenizer.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Marked:
    """Documents of a split that are removed.

    Attributes:
        goes_N: bool.
        ends_N: int64, one more than the last token of each document in the split.
        bytes_N: int64, of each one's text.
    """

    goes_N: np.ndarray
    ends_N: np.ndarray
    bytes_N: np.ndarray

    @property
    def starts_N(self) -> np.ndarray:
        """int64, the first token of each document."""
        return np.concatenate([[0], self.ends_N[:-1]]).astype(np.int64)


def touched_shards(marked: Marked, shards: tuple[Shard, ...]) -> np.ndarray:
    """Return which shards must be written again: bool [S]. These hold a removed document, or share
    a document with such a shard: a document that is longer than a shard lies in several.
    """
    ends_S = np.cumsum([shard.num_tokens for shard in shards], dtype=np.int64)
    is_touched_S = np.zeros(len(shards), bool)
    gone = np.flatnonzero(marked.goes_N)
    first = np.searchsorted(ends_S, marked.starts_N[gone], "right")
    last = np.searchsorted(ends_S, marked.ends_N[gone] - 1, "right")
    for low, high in zip(first, last, strict=True):
        is_touched_S[low : high + 1] = True
    # Whether a document goes on from shard s to the next.
    goes_on_S = ~np.isin(ends_S, marked.ends_N)
    for number in range(len(shards) - 1):
        if goes_on_S[number] and is_touched_S[number]:
            is_touched_S[number + 1] = True
    for number in reversed(range(len(shards) - 1)):
        if goes_on_S[number] and is_touched_S[number + 1]:
            is_touched_S[number] = True
    return is_touched_S


def rewrite_split(
    dataset: TokenDataset,
    name: str,
    marked: Marked,
    is_touched_S: np.ndarray,
    tokenizer: Tokenizer,
    max_shard_tokens: int,
    advance: Callable[[int], None],
) -> list[Shard]:
    """Write new shards without the removed documents; return all shards of the split.

    The new ones lie next to the old ones, under numbers that no shard has had.
    """
    split = dataset.splits[name]
    ends_S = np.cumsum([shard.num_tokens for shard in split.shards], dtype=np.int64)
    free = first_free_number(name, split.shards, dataset.manifest.get("history", ()))
    shards: list[Shard] = []
    for low, high in _runs(is_touched_S):
        if not is_touched_S[low]:
            shards += split.shards[low:high]
            continue
        begin = 0 if low == 0 else int(ends_S[low - 1])
        rows = np.arange(
            np.searchsorted(marked.starts_N, begin),
            np.searchsorted(marked.starts_N, ends_S[high - 1]),
        )
        with ShardWriter(dataset.directory, name, tokenizer, max_shard_tokens, free) as writer:
            for row in rows[~marked.goes_N[rows]].tolist():
                writer.add(_ids(split, marked, row), int(marked.bytes_N[row]))
                advance(int(marked.bytes_N[row]))
        shards += writer.shards
        free += len(writer.shards)
    return shards


def write_remaining_index(
    dataset: TokenDataset, name: str, marked: Marked, output: IndexWriter
) -> None:
    """Write the index of the documents that stay."""
    start = 0
    for number, (num_rows, _, _) in enumerate(index_groups(dataset.directory, name)):
        stays = pa.array(~marked.goes_N[start : start + num_rows])
        rows = pa.Table.from_batches(read_groups(dataset.directory, name, [number]), INDEX_SCHEMA)
        output.add(rows.filter(stays))
        start += num_rows


def texts_that_go(
    dataset: TokenDataset, name: str, marked: Marked, tokenizer: Tokenizer
) -> Iterator[str]:
    """Yield the texts of the documents that are removed."""
    split = dataset.splits[name]
    for row in np.flatnonzero(marked.goes_N).tolist():
        yield tokenizer.decode(_ids(split, marked, row).tolist())


def _ids(split: TokenSplit, marked: Marked, row: int) -> np.ndarray:
    """Return the ids of a document, without BOS and EOS."""
    start = int(marked.ends_N[row - 1]) if row else 0
    return split.read(start + 1, int(marked.ends_N[row]) - 1)


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of neighbours with equal values."""
    cuts = np.flatnonzero(values[1:] != values[:-1]) + 1
    edges = [0, *cuts.tolist(), len(values)]
    yield from itertools.pairwise(edges) if len(values) else ()
