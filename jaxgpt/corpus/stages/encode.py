"""The stages that turn documents into token ids, in their final order, and these into shards."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxgpt.corpus.dataset.document_index import NAMES, IndexWriter, read_index, write_index
from jaxgpt.corpus.documents.document_files import DOCUMENT_BYTES, hash_rows
from jaxgpt.corpus.documents.partition import Partition
from jaxgpt.corpus.documents.splits import SPLITS, Assignment
from jaxgpt.corpus.execution.tasks import TaskRunner
from jaxgpt.corpus.stages.documents import DividedDocuments, EncodedDocuments
from jaxgpt.corpus.stages.train_tokenizer import TokenizerFile
from jaxgpt.corpus.stats.counts import DocumentCounts, SourceCounts
from jaxgpt.corpus.stats.stage_result import stage_result
from jaxgpt.data.manifest import Shard, token_dtype
from jaxgpt.data.shard_writer import ShardWriter
from jaxgpt.tokenizer.tokenizer import Tokenizer

_COLUMNS = ("order", *NAMES, "num_bytes", "text")
# What is encoded together: text, and what every document takes.
_BATCH_BYTES = 4 << 20


def encode_documents(
    runner: TaskRunner, divided: DividedDocuments, tokenizer: TokenizerFile
) -> EncodedDocuments:
    """Turn texts into token ids."""
    documents, assignment = divided.documents, divided.assignment
    copies = divided.copies or [None] * len(documents.partitions)
    tasks = documents.tasks(
        lambda each: (each, copies[each.number], assignment, tokenizer.path),
        [assignment.to_json(), tokenizer.key],
    )
    results = runner.run("encoding", encode_partition, tasks)
    account = copy.deepcopy(documents.account)
    for done in results:
        account.tally.merge_later_stage(DocumentCounts.from_json(done.result["counts"]))
    account.check()
    return EncodedDocuments(
        documents=dataclasses.replace(documents, account=account),
        folders=tuple(done.folder for done in results),
    )


def encode_partition(
    folder: Path,
    advance: Callable[[int], None],
    partition: Partition,
    copies: Partition | None,
    assignment: Assignment,
    tokenizer_file: Path,
) -> dict[str, Any]:
    """Write the ids of both splits' documents; return counts by source.

    Args:
        copies: second and further copies of documents that have their place in this partition;
            they are counted apart.
    """
    tokenizer = Tokenizer.load(tokenizer_file)
    outputs = {split: _Output(folder, split, tokenizer) for split in SPLITS}
    sources: dict[str, SourceCounts] = {}
    # Copies are counted as if they were documents, and then given to their source as what they are.
    repeats: dict[str, SourceCounts] = {}
    both = [each.table(_COLUMNS) for each in (partition, copies) if each is not None]
    table = pa.concat_tables(both).combine_chunks()
    names = table.select(NAMES)
    columns = [table[name] for name in ("source", "hash", "num_bytes", "text")]
    for rows in _in_batches(_final_order(table), table["num_bytes"].to_numpy()):
        values = zip(*(column.take(rows).to_pylist() for column in columns), strict=True)
        for row, (source, digest, num_bytes, text) in zip(rows.tolist(), values, strict=True):
            is_copy = row >= len(both[0])
            tally = (repeats if is_copy else sources).setdefault(source, SourceCounts())
            tally.kept += 1
            tally.num_bytes += num_bytes
            divided = assignment.divide(digest, text)
            for split, share in zip(SPLITS, divided, strict=True):
                if share:
                    outputs[split].add(share, row, tally)
        for output in outputs.values():
            output.flush()
        advance(int(table["num_bytes"].to_numpy()[rows].sum()))
    for source, tally in repeats.items():
        sources.setdefault(source, SourceCounts()).count_repeats(tally)
    for output in outputs.values():
        output.close(names)
    return stage_result(DocumentCounts(sources=sources))


def _final_order(table: pa.Table) -> np.ndarray:
    """Return rows by their place in the dataset; the content hash breaks ties."""
    if not len(table):
        return np.zeros(0, np.int64)
    hashes = np.concatenate([hash_rows(batch) for batch in table.select(["hash"]).to_batches()])
    high, low = hashes.copy().view(">u8").reshape(-1, 2).T
    return np.lexsort((low, high, table["order"].to_numpy()))


def _in_batches(rows: np.ndarray, num_bytes: np.ndarray) -> list[np.ndarray]:
    """Return runs of `rows` that take about `_BATCH_BYTES` together; a long text may exceed it."""
    batch_of_row = np.cumsum(num_bytes[rows] + DOCUMENT_BYTES) // _BATCH_BYTES
    return np.split(rows, np.flatnonzero(np.diff(batch_of_row)) + 1) if len(rows) else []


class _Output:
    """The documents of one split: `SPLIT.bin` has all ids, `SPLIT.arrow` a row for each document
    as in `corpus/dataset/document_index.py`."""

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._file = (folder / f"{split}.bin").open("wb")
        self._index_file = folder / f"{split}.arrow"
        self._rows: list[int] = []
        self._sizes: list[tuple[int, int]] = []
        self._texts: list[str] = []
        self._tallies: list[SourceCounts] = []

    def add(self, text: str, row: int, tally: SourceCounts) -> None:
        """Append text of a document, with the next `flush`; `tally` counts its tokens."""
        self._texts.append(text)
        self._rows.append(row)
        self._tallies.append(tally)

    def flush(self) -> None:
        """Encode and write what was added."""
        ids, offsets = self._tokenizer.encode_to_array(self._texts)
        self._file.write(ids.astype(self._dtype).tobytes())
        # Of every document also BOS and EOS.
        counts = (np.diff(offsets) + 2).tolist()
        for text, count, tally in zip(self._texts, counts, self._tallies, strict=True):
            self._sizes.append((count, len(text.encode())))
            tally.num_tokens += count
        self._texts, self._tallies = [], []

    def close(self, names: pa.Table) -> None:
        """`names` has the index's other columns, for all rows of the partition."""
        self._file.close()
        sizes = np.array(self._sizes, dtype=np.int64).reshape(-1, 2)
        write_index(self._index_file, names.take(pa.array(self._rows, pa.int64())), *sizes.T)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """Existing files of a dataset to which shards are added.

    Attributes:
        dataset: its folder.
        indexes: the folder into which the index of all documents goes.
        first_shards: for each split the number of the first shard that is added.
    """

    dataset: Path
    indexes: Path
    first_shards: Mapping[str, int]


def write_shards(
    directory: Path,
    encoded: Sequence[Path],
    tokenizer: Tokenizer,
    max_shard_tokens: int,
    advance: Callable[[int], None],
    stored: Stored | None = None,
) -> dict[str, list[Shard]]:
    """Write shards of both splits, and their index, from what `encode_partition` wrote.

    With `stored`, the index has its documents first; only the shards that were added are returned.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    shards = {}
    for split in SPLITS:
        first = 0 if stored is None else stored.first_shards[split]
        index_folder = directory if stored is None else stored.indexes
        with (
            ShardWriter(directory, split, tokenizer, max_shard_tokens, first) as writer,
            IndexWriter(index_folder / split) as index,
        ):
            if stored is not None:
                index.copy(stored.dataset, split)
            for folder in encoded:
                rows = read_index(folder / f"{split}.arrow")
                sizes = zip(
                    rows["num_tokens"].to_pylist(), rows["num_bytes"].to_pylist(), strict=True
                )
                with open(folder / f"{split}.bin", "rb") as file:
                    for num_tokens, num_bytes in sizes:
                        data = file.read((num_tokens - 2) * dtype.itemsize)
                        writer.add(np.frombuffer(data, dtype=dtype), num_bytes)
                        advance(num_bytes)
                index.add(rows)
        shards[split] = writer.shards
    return shards
