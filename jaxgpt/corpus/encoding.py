"""The stages that turn documents into token ids, in their final order, and these into shards."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxgpt.corpus.document_index import NAMES, IndexWriter, read_index, write_index
from jaxgpt.corpus.partition import Partition
from jaxgpt.corpus.parts import hash_rows
from jaxgpt.corpus.splits import Assignment
from jaxgpt.corpus.tally import SourceTally
from jaxgpt.dataset_manifest import Shard, token_dtype
from jaxgpt.shard_writer import ShardWriter
from jaxgpt.tokenizer import Tokenizer

SPLITS = ("train", "val")
_COLUMNS = ("order", *NAMES, "text")


def encode_partition(
    folder: Path,
    advance: Callable[[int], None],
    partition: Partition,
    assignment: Assignment,
    tokenizer_file: Path,
) -> dict[str, Any]:
    """Kernel: write the ids of both splits' documents; return counts by source and by length."""
    tokenizer = Tokenizer.load(tokenizer_file)
    outputs = {split: _Output(folder, split, tokenizer) for split in SPLITS}
    sources: dict[str, SourceTally] = {}
    lengths: Counter[int] = Counter()
    table = partition.table(_COLUMNS)
    names = table.select(NAMES)
    for row in _final_order(table):
        text = table["text"][row].as_py()
        num_bytes = len(text.encode())
        # The number of bits of its length: documents of 2**(n-1) .. 2**n - 1 bytes are alike.
        lengths[num_bytes.bit_length()] += 1
        tally = sources.setdefault(table["source"][row].as_py(), SourceTally())
        tally.kept += 1
        tally.num_bytes += num_bytes
        divided = assignment.divide(table["hash"][row].as_py(), text)
        for split, share in zip(SPLITS, divided, strict=True):
            if share:
                tally.num_tokens += outputs[split].add(share, row)
        advance(num_bytes)
    for output in outputs.values():
        output.close(names)
    return {
        "sources": {name: tally.to_json() for name, tally in sources.items()},
        "lengths": lengths,
    }


def _final_order(table: pa.Table) -> list[int]:
    """Rows by their place in the dataset; the content hash settles the rarest of ties."""
    if not len(table):
        return []
    hashes = np.concatenate([hash_rows(batch) for batch in table.select(["hash"]).to_batches()])
    high, low = hashes.copy().view(">u8").reshape(-1, 2).T
    return np.lexsort((low, high, table["order"].to_numpy())).tolist()


class _Output:
    """The documents of one split: `SPLIT.bin` has all ids, `SPLIT.arrow` a row for each document
    as in `document_index.py`."""

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._file = (folder / f"{split}.bin").open("wb")
        self._index_file = folder / f"{split}.arrow"
        self._rows: list[int] = []
        self._sizes: list[tuple[int, int]] = []

    def add(self, text: str, row: int) -> int:
        """Append text of a document; return its number of tokens, with BOS and EOS."""
        ids = np.array(self._tokenizer.encode(text), dtype=self._dtype)
        self._file.write(ids.tobytes())
        self._rows.append(row)
        self._sizes.append((len(ids) + 2, len(text.encode())))
        return len(ids) + 2

    def close(self, names: pa.Table) -> None:
        """`names` has the index's other columns, for all rows of the partition."""
        self._file.close()
        sizes = np.array(self._sizes, dtype=np.int64).reshape(-1, 2)
        write_index(self._index_file, names.take(pa.array(self._rows, pa.int64())), *sizes.T)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """What a dataset has already, to which shards are added.

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
