"""Datasets on disk -> training and evaluation batches.

Training order: a dataset is cut into windows of T + 1 tokens at every T-th token; each epoch
visits every window once, in an order of its own; a mixture interleaves datasets by weight. Row r
of that endless sequence is a pure function of (seed, r), and batch k is rows kG .. (k+1)G - 1,
so a resumed run needs to know one integer, and hosts and threads cannot change what is read.
Evaluation reads a split from its beginning to its end.

What a row looks like is in `packing.py`; what lies on disk, in `jaxgpt/data/shards.py`.

Axes: B rows, T tokens of a row, W = T + 1 tokens of a window.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.config import configclass
from jaxgpt.data.mixture import Interleaving, proportions
from jaxgpt.data.order import shuffle_forever
from jaxgpt.data.packing import make_rows
from jaxgpt.data.prefetch import Prefetched
from jaxgpt.data.shards import TokenDataset
from jaxgpt.data.windows import TokenSource, Windows, read_with_starts
from jaxgpt.errors import ConfigError, MismatchError, UsageError
from jaxgpt.names.nearby_paths import describe_nearby_datasets


@configclass
class WeightedDataset:
    """One dataset folder and its part in the mixture."""

    path: str
    """Dataset folder, as written by tools/build_dataset.py."""
    weight: float = 1.0
    """Share of the rows, relative to the other datasets' weights."""

    def __post_init__(self) -> None:
        proportions([self.weight])


@configclass
class DataConfig:
    """Datasets to train on."""

    datasets: tuple[WeightedDataset, ...] = ()
    """Datasets to draw from, all made with one tokenizer."""
    mask_documents: bool = True
    """Attention and positions within each document; False lets them cross documents (GPT-2)."""


@configclass
class BatchConfig:
    """The size of one optimiser step."""

    sequence_length: int
    """Tokens per row that the model sees."""
    global_batch_size: int
    """Rows per step, over all devices and micro-batches."""
    num_micro_batches: int = 1
    """Micro-batches per step, computed one after the other to save memory."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens that a step reads."""
        return self.global_batch_size * self.sequence_length

    def __post_init__(self) -> None:
        for name in ("sequence_length", "global_batch_size", "num_micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.global_batch_size % self.num_micro_batches:
            raise ValueError(
                f"global_batch_size = {self.global_batch_size} is not divisible by "
                f"num_micro_batches = {self.num_micro_batches}"
            )


class TrainingBatches:
    """The batches of a run. Made by `open_training_batches`.

    Attributes:
        datasets: the open datasets, in the order of the config.
        fingerprint: everything that the sequence of batches depends on, as plain JSON values.
        tokens_by_dataset: targets in one pass over all windows of each dataset.
        tokens_per_epoch: their sum.
        num_segments: 0: how many documents a row holds is not known before it is read.
    """

    num_segments = 0

    def __init__(
        self, datasets: Sequence[TokenDataset], data: DataConfig, batch: BatchConfig, seed: int
    ) -> None:
        self.datasets = tuple(datasets)
        self._mask_documents = data.mask_documents
        self._global_batch_size = batch.global_batch_size
        shares = proportions([source.weight for source in data.datasets])
        self._interleaving = Interleaving(shares)
        windows = [
            _windows(dataset, source.path, batch.sequence_length)
            for dataset, source in zip(datasets, data.datasets, strict=True)
        ]
        self._sequences = [
            shuffle_forever(source, seed, position) for position, source in enumerate(windows)
        ]
        self.tokens_by_dataset = [len(source) * batch.sequence_length for source in windows]
        self.tokens_per_epoch = sum(self.tokens_by_dataset)
        self.fingerprint: dict[str, Any] = {
            "datasets": [
                {"fingerprint": dataset.fingerprint, "share": share}
                for dataset, share in zip(datasets, shares, strict=True)
            ],
            "order": {
                "seed": seed,
                "sequence_length": batch.sequence_length,
                "global_batch_size": batch.global_batch_size,
                "mask_documents": data.mask_documents,
            },
        }

    def batch(self, step: int) -> Batch:
        """Return the whole batch of step `step` (from 0), as NumPy arrays [B, T]."""
        return self.rows(step, 0, self._global_batch_size)

    def rows(self, step: int, start: int, stop: int) -> Batch:
        """Return rows [start, stop) of step `step`'s batch, reading nothing else."""
        if not (step >= 0 and 0 <= start <= stop <= self._global_batch_size):
            raise IndexError(
                f"rows {start}..{stop} of step {step}: a batch has {self._global_batch_size} rows"
            )
        return self.pick(step, range(start, stop))

    def pick(self, step: int, rows: Sequence[int]) -> Batch:
        """Return some rows of step `step`'s batch, in the order given, reading nothing else."""
        windows = []
        for row_of_batch in rows:
            index = step * self._global_batch_size + row_of_batch
            dataset, row = self._interleaving.locate(index)
            windows.append(self._sequences[dataset][row])
        tokens_BW = np.stack([tokens for tokens, _ in windows])
        starts_BW = np.stack([starts for _, starts in windows])
        return make_rows(tokens_BW, starts_BW, mask_documents=self._mask_documents)

    def iterate(
        self, start_step: int, rows: Sequence[int] | None = None, prefetch: int = 2
    ) -> Prefetched[Batch]:
        """Return an endless iterator over `pick(k, rows)`, k = start_step, ...; None: all rows.

        Up to `prefetch` batches are read ahead by one thread; 0 reads them when asked for.
        Close it (or use `with`) to end that thread. An error in reading is raised by `next`.
        """
        chosen = range(self._global_batch_size) if rows is None else rows
        return Prefetched(lambda step: self.pick(step, chosen), start_step, prefetch)


def open_training_batches(data: DataConfig, batch: BatchConfig, seed: int) -> TrainingBatches:
    """Open the training splits of `data`'s datasets.

    Raises:
        ConfigError: no dataset is given, or one is too small for a single window.
        UsageError: a dataset's path does not exist.
        MismatchError: a folder is not a complete dataset, or tokenizers differ.
    """
    if not data.datasets:
        raise ConfigError("no dataset to train on: give --data DIR, or data.datasets in the config")
    for source in data.datasets:
        if not Path(source.path).is_dir():
            hint = describe_nearby_datasets(Path(source.path))
            raise UsageError(
                f"no dataset at {source.path}, seen from {Path.cwd()}{hint}; give --data DIR, or "
                "build one with `jaxgpt build-dataset --input TEXT --output DIR`"
            )
    datasets = [TokenDataset.open(source.path) for source in data.datasets]
    _require_one_tokenizer(datasets, [source.path for source in data.datasets])
    return TrainingBatches(datasets, data, batch, seed)


def evaluation_batches(
    split: TokenSource,
    sequence_length: int,
    batch_size: int,
    max_tokens: int | None = None,
    mask_documents: bool = True,
) -> Iterator[Batch]:
    """Yield the split as consecutive windows; all batches have shape [batch_size, T].

    Every token is a target of weight 1 exactly once, but for the first token of each document,
    which stands for "a document begins" and is predicted by nothing (also where documents are
    not masked: so the figures of both are over the same tokens). The context of a target is what
    precedes it in its row, within its document if masked. The last batch is filled up with
    padding.

    Args:
        split: what to read.
        sequence_length: T.
        batch_size: B.
        max_tokens: read only that many tokens from the beginning; None reads all.
        mask_documents: as in training, see `DataConfig`.
    """
    num_tokens = split.num_tokens if max_tokens is None else min(max_tokens, split.num_tokens)
    stride = batch_size * sequence_length
    for start in range(0, num_tokens - 1, stride):
        stop = min(start + stride + 1, num_tokens)
        tokens, starts = read_with_starts(split, start, stop)
        tokens_BW = _rows_of(tokens, sequence_length, batch_size)
        starts_BW = _rows_of(starts, sequence_length, batch_size)
        first_B = np.arange(batch_size) * sequence_length
        lengths_B = np.clip(stop - start - first_B, 0, sequence_length + 1)
        rows = make_rows(tokens_BW, starts_BW, lengths_B, mask_documents)
        yield rows._replace(loss_weights_BT=np.where(starts_BW[:, 1:], 0, rows.loss_weights_BT))


def count_evaluation_batches(
    split: TokenSource, sequence_length: int, batch_size: int, max_tokens: int | None = None
) -> int:
    """Return how many batches `evaluation_batches` yields."""
    num_tokens = split.num_tokens if max_tokens is None else min(max_tokens, split.num_tokens)
    return -(-max(num_tokens - 1, 0) // (sequence_length * batch_size))


def _windows(dataset: TokenDataset, path: str, sequence_length: int) -> Windows:
    split = dataset.splits.get("train")
    if split is None:
        raise MismatchError(
            f"{path} has no train split, only {', '.join(dataset.splits) or 'none'}; build it again"
        )
    windows = Windows(split, sequence_length)
    if len(windows) == 0:
        raise ConfigError(
            f"batch.sequence_length = {sequence_length} needs {sequence_length + 1} tokens, but "
            f"the train split of {path} has {split.num_tokens}; choose a sequence length of at "
            f"most {max(1, split.num_tokens - 1)}, or add text"
        )
    return windows


def _require_one_tokenizer(datasets: Sequence[TokenDataset], paths: Sequence[str]) -> None:
    fingerprints = [dataset.manifest["tokenizer"]["sha256"] for dataset in datasets]
    for path, fingerprint in zip(paths, fingerprints, strict=True):
        if fingerprint != fingerprints[0]:
            raise MismatchError(
                f"{paths[0]} was made with tokenizer {fingerprints[0][:12]} and {path} with "
                f"tokenizer {fingerprint[:12]}; build the second again with "
                f"--tokenizer.path {paths[0]}"
            )


def _rows_of(values: np.ndarray, sequence_length: int, batch_size: int) -> np.ndarray:
    """Cut a run of at most BT + 1 values into B windows that overlap by one, zeros at the end."""
    whole = np.zeros(batch_size * sequence_length + 1, values.dtype)
    whole[: len(values)] = values
    windows = np.lib.stride_tricks.sliding_window_view(whole, sequence_length + 1)
    return windows[::sequence_length]
