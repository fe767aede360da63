"""Decontamination: documents that share a run of words with an evaluation file.

A run of 13 words is what Brown et al. (2020) and Dolma (Soldaini et al. 2024) look for: hardly
ever shared by chance, and kept when a benchmark is quoted. Words are as in `unicode_words`.

Axes: G n-grams, H n-grams of a benchmark, each with an item that has it.
"""

import dataclasses
import functools
import itertools
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.corpus.execution.machine_errors import explain, is_fault_of_machine
from jaxgpt.corpus.filters.evaluation_texts import read_benchmark
from jaxgpt.corpus.text.batch import Judged, Step, TextBatch
from jaxgpt.corpus.text.words import neighbours, unicode_words
from jaxgpt.errors import UsageError

BENCHMARK_OVERLAP = "benchmark_overlap"
_DOCUMENTS, _ITEM = "documents", "item"
# The top bits of a hash find out nearly all n-grams that are in no benchmark.
_FILTER_BITS = 24
_ITEMS_AT_ONCE = 1000


@configclass
class DecontaminationConfig:
    """Evaluation texts that a corpus must not contain."""

    files: tuple[str, ...] = ()
    """Evaluation files: .jsonl, .json, .csv or .txt."""
    ngram: int = 13
    """Number of consecutive words that a contaminated document shares with an evaluation text."""
    action: Literal["drop", "report"] = "drop"
    """Treatment of contaminated documents. drop: leave them out; report: only count them."""

    def __post_init__(self) -> None:
        if not 1 <= self.ngram <= 1000:
            raise ValueError(f"ngram = {self.ngram}; it must be between 1 and 1000")
        if len(set(self.files)) < len(self.files):
            raise ValueError(f"files = {self.files}; one is named twice")

    @property
    def files_read(self) -> tuple[str, ...]:
        """Return the files that the result depends on, in addition to this config."""
        return self.files

    def build(self) -> tuple[Step, ...]:
        """Return the step, if there are files.

        Raises:
            UsageError, BadInputError: as `read_benchmark`.
        """
        if not self.files:
            return ()
        return (Decontamination(_load(self), self.action == "drop"),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkNgrams:
    """The n-grams of evaluation files.

    Attributes:
        hashes_H: uint64, sorted; an n-gram of several items is there for each.
        items_H: int64, the item that has it; items are counted through all files.
        first_items: of each file, and the number of all items.
        names: of the files.
        num_checkable: of each file, items that have an n-gram at all.
    """

    hashes_H: np.ndarray
    items_H: np.ndarray
    first_items: tuple[int, ...]
    names: tuple[str, ...]
    num_checkable: tuple[int, ...]

    @functools.cached_property
    def may_have(self) -> np.ndarray:
        """Return whether some n-gram's hash begins with these bits: bool [2**_FILTER_BITS]."""
        found = np.zeros(1 << _FILTER_BITS, bool)
        found[self.hashes_H >> np.uint64(64 - _FILTER_BITS)] = True
        return found

    def find(self, hashes_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (place in hashes_G, item) of every n-gram that is in an item."""
        places = np.flatnonzero(self.may_have[hashes_G >> np.uint64(64 - _FILTER_BITS)])
        starts = np.searchsorted(self.hashes_H, hashes_G[places])
        counts = np.searchsorted(self.hashes_H, hashes_G[places], "right") - starts
        before = np.cumsum(counts) - counts
        rows = np.arange(counts.sum()) + np.repeat(starts - before, counts)
        return np.repeat(places, counts), self.items_H[rows]

    def file_of(self, items: np.ndarray) -> np.ndarray:
        """Return the file of each item."""
        return np.searchsorted(self.first_items, items, "right") - 1


class Decontamination:
    """The step that judges documents; a pure function of each."""

    stage = "decontamination"

    def __init__(self, benchmark: tuple[BenchmarkNgrams, int], drops: bool) -> None:
        self._benchmark, self._ngram = benchmark
        self._drops = drops

    def __call__(self, batch: TextBatch) -> Judged:
        """Reject documents that share an n-gram; count hits by file and by item."""
        benchmark = self._benchmark
        hashes_G, offsets_D1 = neighbours(unicode_words(batch.texts), self._ngram)
        places, items = benchmark.find(hashes_G)
        documents = np.searchsorted(offsets_D1, places, "right") - 1
        hits = np.unique(np.stack([documents, items], axis=1), axis=0)
        files = benchmark.file_of(hits[:, 1])
        counts: Counter[str] = Counter()
        for item, file in zip(hits[:, 1].tolist(), files.tolist(), strict=True):
            counts[f"{_ITEM} {item - benchmark.first_items[file]} {benchmark.names[file]}"] += 1
        of_documents = np.unique(np.stack([hits[:, 0], files], axis=1), axis=0)
        for file in of_documents[:, 1].tolist():
            counts[f"{_DOCUMENTS} {benchmark.names[file]}"] += 1
        contaminated = set(hits[:, 0].tolist()) if self._drops else set()
        reasons = [
            BENCHMARK_OVERLAP if row in contaminated else None for row in range(len(batch.texts))
        ]
        return Judged(reasons=reasons, counts=counts)


def summarize(config: DecontaminationConfig, counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the result for each evaluation file, for the report.

    Args:
        counts: of `Judged`, summed over the corpus.

    Returns:
        JSON objects: file, num_items, num_checkable_items (the others have too few words),
        num_items_found, num_documents_hit.
    """
    if not config.files:
        return []
    benchmark, _ = _load(config)
    items_found: Counter[str] = Counter()
    for kind in counts:
        what, _, rest = kind.partition(" ")
        if what == _ITEM:
            items_found[rest.partition(" ")[2]] += 1
    return [
        {
            "file": name,
            "num_items": benchmark.first_items[number + 1] - benchmark.first_items[number],
            "num_checkable_items": benchmark.num_checkable[number],
            "num_items_found": items_found[name],
            "num_documents_hit": counts.get(f"{_DOCUMENTS} {name}", 0),
        }
        for number, name in enumerate(benchmark.names)
    ]


def _load(config: DecontaminationConfig) -> tuple[BenchmarkNgrams, int]:
    """Return the n-grams of the files, cached in the process until the files change."""
    stamps = []
    for name in config.files:
        try:
            status = os.stat(name)
        except OSError as error:
            if is_fault_of_machine(error):
                raise explain(error, name) from None
            raise UsageError(
                f"no evaluation file at {name}: {error.strerror}; name existing files with "
                "--decontamination.files"
            ) from None
        stamps.append((status.st_mtime_ns, status.st_size))
    return _load_files(config.files, tuple(stamps), config.ngram), config.ngram


@functools.lru_cache(maxsize=2)
def _load_files(
    names: tuple[str, ...], stamps: tuple[tuple[int, int], ...], ngram: int
) -> BenchmarkNgrams:
    hashes, items = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    first_items, num_checkable = [0], []
    for name in names:
        file_hashes, file_items, num_items = _read_ngrams(name, ngram)
        hashes.append(file_hashes)
        items.append(file_items + first_items[-1])
        num_checkable.append(len(np.unique(file_items)))
        first_items.append(first_items[-1] + num_items)
    hashes_H, items_H = np.concatenate(hashes), np.concatenate(items)
    order = np.lexsort((items_H, hashes_H))
    hashes_H, items_H = hashes_H[order], items_H[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (hashes_H[1:] != hashes_H[:-1]) | (items_H[1:] != items_H[:-1])
    return BenchmarkNgrams(
        hashes_H=hashes_H[is_new],
        items_H=items_H[is_new],
        first_items=tuple(first_items),
        names=names,
        num_checkable=tuple(num_checkable),
    )


def _read_ngrams(name: str, ngram: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the n-grams of one file, the item of each, and the number of items."""
    hashes, items = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    num_items = 0
    reader = read_benchmark(name)
    while some := list(itertools.islice(reader, _ITEMS_AT_ONCE)):
        hashes_G, offsets_D1 = neighbours(unicode_words(list(itertools.chain(*some))), ngram)
        owners = np.repeat(np.arange(len(some)) + num_items, [len(texts) for texts in some])
        hashes.append(hashes_G)
        items.append(np.repeat(owners, np.diff(offsets_D1)))
        num_items += len(some)
    return np.concatenate(hashes), np.concatenate(items), num_items
