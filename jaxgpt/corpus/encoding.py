"""The stages that turn documents into token ids, in their final order, and these into shards."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxgpt.corpus.deduplication import kept_batches
from jaxgpt.corpus.parts import Part, hash_rows
from jaxgpt.corpus.splits import Assignment
from jaxgpt.corpus.tally import SourceTally
from jaxgpt.dataset_manifest import Shard, token_dtype
from jaxgpt.shard_writer import ShardWriter
from jaxgpt.tokenizer import Tokenizer

SPLITS = ("train", "val")
_COLUMNS = ("order", "hash", "source", "text")


def encode_partition(
    folder: Path,
    advance: Callable[[int], None],
    parts: Sequence[Part],
    partition: int,
    kept_file: Path,
    assignment: Assignment,
    tokenizer_file: Path,
) -> dict[str, Any]:
    """Kernel: write the ids of both splits' documents; return counts by source and by length."""
    tokenizer = Tokenizer.load(tokenizer_file)
    outputs = {split: _Output(folder, split, tokenizer) for split in SPLITS}
    sources: dict[str, SourceTally] = {}
    lengths: Counter[int] = Counter()
    table = pa.Table.from_batches(
        list(kept_batches(parts, partition, kept_file, _COLUMNS)),
        schema=pa.schema({"order": pa.uint64(), "hash": pa.binary(16), **_STRINGS}),
    )
    texts, hashes, names = table["text"], table["hash"], table["source"]
    for row in _final_order(table):
        text = texts[row].as_py()
        num_bytes = len(text.encode())
        # The number of bits of its length: documents of 2**(n-1) .. 2**n - 1 bytes are alike.
        lengths[num_bytes.bit_length()] += 1
        tally = sources.setdefault(names[row].as_py(), SourceTally())
        tally.kept += 1
        tally.num_bytes += num_bytes
        divided = assignment.divide(hashes[row].as_py(), text)
        for split, share in zip(SPLITS, divided, strict=True):
            if share:
                tally.num_tokens += outputs[split].add(share)
        advance(num_bytes)
    for output in outputs.values():
        output.close()
    return {
        "sources": {name: dataclasses.asdict(tally) for name, tally in sources.items()},
        "lengths": lengths,
    }


_STRINGS = {"source": pa.string(), "text": pa.large_string()}


def _final_order(table: pa.Table) -> list[int]:
    """Rows by their place in the dataset; the content hash settles the rarest of ties."""
    if not len(table):
        return []
    hashes = np.concatenate([hash_rows(batch) for batch in table.select(["hash"]).to_batches()])
    high, low = hashes.copy().view(">u8").reshape(-1, 2).T
    return np.lexsort((low, high, table["order"].to_numpy())).tolist()


class _Output:
    """The documents of one split: `SPLIT.bin` all ids, `SPLIT.npy` tokens and bytes of each."""

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._file = (folder / f"{split}.bin").open("wb")
        self._sizes_file = folder / f"{split}.npy"
        self._sizes: list[tuple[int, int]] = []

    def add(self, text: str) -> int:
        """Append a document; return its number of tokens, with BOS and EOS."""
        ids = np.array(self._tokenizer.encode(text), dtype=self._dtype)
        self._file.write(ids.tobytes())
        self._sizes.append((len(ids), len(text.encode())))
        return len(ids) + 2

    def close(self) -> None:
        self._file.close()
        np.save(self._sizes_file, np.array(self._sizes, dtype=np.int64).reshape(-1, 2))


def write_shards(
    directory: Path,
    encoded: Sequence[Path],
    tokenizer: Tokenizer,
    max_shard_tokens: int,
    advance: Callable[[int], None],
) -> dict[str, list[Shard]]:
    """Write the shards of both splits from the folders that `encode_partition` filled."""
    dtype = token_dtype(tokenizer.vocab_size)
    shards = {}
    for split in SPLITS:
        with ShardWriter(directory, split, tokenizer, max_shard_tokens) as writer:
            for folder in encoded:
                sizes = np.load(folder / f"{split}.npy", allow_pickle=False)
                with open(folder / f"{split}.bin", "rb") as file:
                    for num_tokens, num_bytes in sizes.tolist():
                        data = file.read(num_tokens * dtype.itemsize)
                        writer.add(np.frombuffer(data, dtype=dtype), num_bytes)
                        advance(num_bytes)
        shards[split] = writer.shards
    return shards
