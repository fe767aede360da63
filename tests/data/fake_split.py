"""Splits and datasets made of arrays, for tests that need no files."""

from types import SimpleNamespace

import numpy as np

from jaxgpt.data.loader import BatchConfig, DataConfig, TrainingBatches, WeightedDataset


class FakeSplit:
    """Tokens 0, 1, 2, ...: each id is its own position, so that a row tells where it is from.

    Attributes:
        num_reads: calls of `read` so far.
    """

    def __init__(self, num_tokens, starts=(0,), first_id=0):
        self.num_tokens = num_tokens
        self.num_reads = 0
        self._starts = np.asarray(starts, np.int64)
        self._first_id = first_id

    def read(self, start, stop):
        assert 0 <= start <= stop <= self.num_tokens
        self.num_reads += 1
        return np.arange(start, stop, dtype=np.int32) + self._first_id

    def document_starts(self, start, stop):
        assert 0 <= start <= stop <= self.num_tokens
        return self._starts[(self._starts >= start) & (self._starts < stop)]


def fake_dataset(split, fingerprint="f"):
    """A dataset with one split."""
    return SimpleNamespace(
        splits={"train": split},
        fingerprint=fingerprint,
        manifest={"tokenizer": {"sha256": "t"}},
    )


def training_batches(*splits, weights=None, sequence_length=4, global_batch_size=3, seed=0):
    """TrainingBatches over fake splits."""
    sources = tuple(
        WeightedDataset(path=f"d{number}", weight=weight)
        for number, weight in enumerate(weights or [1.0] * len(splits))
    )
    return TrainingBatches(
        [fake_dataset(split, f"f{number}") for number, split in enumerate(splits)],
        DataConfig(datasets=sources),
        BatchConfig(sequence_length=sequence_length, global_batch_size=global_batch_size),
        seed,
    )
