"""The stage that measures what documents are like: length, language, how far they compress.

Kept and dropped ones are counted apart, by the text that was read. Text that compresses very well
repeats itself, text that hardly does is no prose: a cheap sign of quality, and one that looks at
neither words nor rules.

What is measured are the first documents of the dataset's order, which is drawn by hash of content:
a fair sample, and the cost is the same however large a corpus is. All results are whole numbers
that are added up, so that it makes no difference who counted them.
"""

import copy
import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard

from jaxgpt.corpus.documents.document import shorten
from jaxgpt.corpus.documents.partition import Partition
from jaxgpt.corpus.execution.tasks import Task, TaskRunner
from jaxgpt.corpus.filters.language import UNKNOWN, guess_languages
from jaxgpt.corpus.stages.documents import Documents
from jaxgpt.corpus.stats.measures import (
    EXTREMES,
    FATES,
    MEASURES,
    extreme_documents,
    merge_measures,
)
from jaxgpt.corpus.text.batch import TextBatch
from jaxgpt.corpus.text.scripts import SCRIPTS

# Of so many, a share of a half is right to within 1.6 points, 19 times of 20.
_MAX_DOCUMENTS = 4096
# Language and compression are measured of the beginning: of long and short texts alike, that is.
_BEGINNING_CHARACTERS = 4096
# Of a shorter text the compressor's own marks would be measured.
_MIN_COMPRESSED_BYTES = 256
_COLUMNS = ("order", "location", "num_bytes", "text")


def measure_documents(runner: TaskRunner, documents: Documents) -> Documents:
    """Measure a sample of the documents, those that were read and those that are left."""
    read, kept = documents.read, documents.partitions
    num_partitions, last = _find_sample(read)
    tasks = [
        Task(
            name=f"{before.number:05d}",
            depends_on=[documents.key, before.number, last],
            arguments=(before, after, last),
            num_bytes=before.num_bytes,
        )
        for before, after in zip(read[:num_partitions], kept, strict=False)
    ]
    results = runner.run("measuring", measure_partition, tasks)
    num_documents = sum(partition.num_rows() for partition in read)
    found = merge_measures([done.result for done in results]) | {"num_documents": num_documents}
    account = copy.deepcopy(documents.account)
    account.count_measures(found)
    return dataclasses.replace(documents, account=account)


def measure_partition(
    folder: Any, advance: Callable[[int], None], read: Partition, kept: Partition, last: int
) -> dict[str, Any]:
    """Count the documents of a partition up to the place `last`; nothing is written but
    the result."""
    kept_locations: set[str] = set()
    for batch in kept.batches(("location",)):
        kept_locations.update(batch.column(0).to_pylist())
    counts = {measure: {fate: Counter() for fate in FATES} for measure in MEASURES}
    extremes: dict[str, list[dict[str, Any]]] = {name: [] for name in EXTREMES}
    num_measured = 0
    for batch in read.batches(_COLUMNS):
        is_measured = batch.column("order").to_numpy() <= np.uint64(last)
        some = batch.filter(pa.array(is_measured))
        locations, sizes, texts = (some.column(name).to_pylist() for name in _COLUMNS[1:])
        num_measured += len(texts)
        beginnings = [text[:_BEGINNING_CHARACTERS] for text in texts]
        shares = [*map(compressed_share, beginnings)]
        measured = zip(locations, sizes, _languages(beginnings), shares, strict=True)
        for location, size, language, share in measured:
            fate = "kept" if location in kept_locations else "dropped"
            counts["length"][fate][str(size.bit_length())] += 1
            counts["language"][fate][language] += 1
            if share is not None:
                counts["compression"][fate][str(min(int(share * 20), 20))] += 1
        kept_shares = [
            {"location": location, "share": share}
            for location, share in zip(locations, shares, strict=True)
            if share is not None and location in kept_locations
        ]
        for name, found in extremes.items():
            extremes[name] = extreme_documents(name, found + kept_shares)
        advance(sum(batch.column("num_bytes").to_pylist()))
    texts = _beginnings(kept, {entry["location"] for name in EXTREMES for entry in extremes[name]})
    for entry in itertools.chain.from_iterable(extremes.values()):
        entry["text"] = texts[entry["location"]]
    counted = {"num_documents": num_measured, "num_measured": num_measured}
    return {**counted, **counts, "extremes": extremes}


def _find_sample(read: Sequence[Partition]) -> tuple[int, int]:
    """Return the number of partitions with the sample, and the place of its last document."""
    places = np.zeros(0, np.uint64)
    # Partitions hold ascending ranges of places.
    for number, partition in enumerate(read):
        places = np.append(places, partition.table(("order",))["order"].to_numpy())
        if len(places) >= _MAX_DOCUMENTS:
            return number + 1, int(np.partition(places, _MAX_DOCUMENTS - 1)[_MAX_DOCUMENTS - 1])
    return len(read), int(places.max(initial=0))


def compressed_share(text: str) -> float | None:
    """Return compressed size as a share of the size, by zstd level 1; None for a short text."""
    data = text.encode()
    if len(data) < _MIN_COMPRESSED_BYTES:
        return None
    return len(_compressor().compress(data)) / len(data)


@functools.cache
def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=1)


def _languages(texts: Sequence[str]) -> Iterator[str]:
    """Yield the language of each text, or a label where it is not certain."""
    batch = TextBatch(texts=texts, urls=[""] * len(texts))
    for (language, _), letters_S in zip(guess_languages(batch), batch.letters_DS, strict=True):
        if language != UNKNOWN:
            yield language
        elif letters_S.any():
            yield f"uncertain, {SCRIPTS[int(letters_S.argmax())]}"
        else:
            yield "no letters"


def _beginnings(kept: Partition, locations: Collection[str]) -> dict[str, str]:
    """Yield the beginnings of texts as they were kept, after edits."""
    texts: dict[str, str] = {}
    for batch in kept.batches(("location", "text")) if locations else ():
        for row, location in enumerate(batch.column(0).to_pylist()):
            if location in locations:
                texts[location] = shorten(batch.column(1)[row].as_py())
    return texts
