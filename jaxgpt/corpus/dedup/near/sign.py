"""The stage that signs: texts -> signatures and band keys, one partition at a time.

Band keys are stored sorted, so that the join reads its range of keys as one piece of each file.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
from jaxgpt.corpus.dedup.near.lsh import band_keys
from jaxgpt.corpus.dedup.near.minhash import sign
from jaxgpt.corpus.dedup.near.shingles import shingle
from jaxgpt.corpus.documents.partition import Partition
from jaxgpt.storage.array_files import ArrayWriter, save_array
from jaxgpt.storage.mapped_files import map_npy

SIGNATURES_NAME = "signatures.npy"
NUM_SHINGLES_NAME = "num_shingles.npy"
KEYS_NAME = "keys.npy"
ROWS_NAME = "rows.npy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignedPartition:
    """A partition and the folder of its signatures.

    Attributes:
        first: the number of its first document; those of all partitions are counted through.
        num_documents: rows of the partition.
    """

    partition: Partition
    folder: Path
    first: int
    num_documents: int

    @property
    def stop(self) -> int:
        """One more than the number of its last document."""
        return self.first + self.num_documents

    def load(self, name: str) -> np.ndarray:
        """Map one of the files that `sign_partition` wrote into memory."""
        return map_npy(self.folder / name)


def sign_partition(
    folder: Path,
    advance: Callable[[int], None],
    partition: Partition,
    config: NearDuplicatesConfig,
) -> dict[str, Any]:
    """Write the files that `SignedPartition.load` reads.

    signatures.npy: uint32 [D, K]; num_shingles.npy: int64 [D], as often as a text repeats them;
    keys.npy: uint64, sorted, and rows.npy: uint32, the row that each key is of. A document
    without words has no keys: it is like no other.
    """
    num_documents = sum(batch.num_rows for batch in partition.batches(("num_bytes",)))
    counts_D = np.zeros(num_documents, np.int64)
    keys = [np.zeros((0, config.num_bands), np.uint64)]
    row = 0
    shape = (num_documents, config.num_permutations)
    with ArrayWriter(folder / SIGNATURES_NAME, np.uint32, shape) as file:
        for batch in partition.batches(("num_bytes", "text")):
            rows = slice(row, row + batch.num_rows)
            shingles = shingle(batch.column("text").to_pylist(), config.ngram)
            counts_D[rows] = shingles.counts_D
            signatures = sign(shingles, config.num_permutations)
            file.append(signatures)
            keys.append(band_keys(signatures, config.num_bands, config.num_rows))
            row = rows.stop
            advance(sum(batch.column("num_bytes").to_pylist()))
    save_array(folder / NUM_SHINGLES_NAME, counts_D)
    with_words = np.flatnonzero(counts_D)
    keys_P = np.concatenate(keys)[with_words].ravel()
    order = np.argsort(keys_P, kind="stable")
    save_array(folder / KEYS_NAME, keys_P[order])
    save_array(folder / ROWS_NAME, with_words[order // config.num_bands].astype(np.uint32))
    return {"num_documents": num_documents, "num_keys": len(keys_P)}
