"""The stage that weighs sources: some of the documents of one, or all of them more than once.

A weight is how often a document is trained on: 0.25 keeps a quarter of them, 2.5 gives each twice
and half of them a third time. Which ones is drawn by content hash, and depends on nothing else.
Documents that are held out are neither dropped nor repeated: what is measured on them must not
change with the weights.

Every copy draws a place in the dataset of its own, so copies of a text lie far apart.
"""

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jaxgpt.config import configclass, to_dict
from jaxgpt.corpus.documents.document import Document
from jaxgpt.corpus.documents.document_files import DocumentWriter
from jaxgpt.corpus.documents.partition import KEPT_NAME, Partition
from jaxgpt.corpus.documents.splits import Assignment, draw
from jaxgpt.corpus.execution.tasks import TaskRunner
from jaxgpt.corpus.stages.documents import DividedDocuments, Documents, written_partitions
from jaxgpt.corpus.stats.drop_log import DropLog
from jaxgpt.corpus.stats.stage_result import stage_result
from jaxgpt.errors import ConfigError, did_you_mean
from jaxgpt.storage.array_files import save_array

MIXTURE_STAGE = "mixture"
MIXTURE_WEIGHT = "mixture_weight"
# A text that is seen more often than that is learnt by heart.
_MAX_WEIGHT = 100.0
_COLUMNS = ("hash", "num_bytes", "id", "location", "source", "license", "url", "text")


@configclass
class MixtureConfig:
    """Weights of the sources: number of times that their documents are trained on."""

    weights: tuple[tuple[str, float], ...] = ()
    """Pairs of a source and its weight, for example `web 0.25 books 2.5`; all others have weight
    1."""

    def __post_init__(self) -> None:
        for source, weight in self.weights:
            if not 0 <= weight <= _MAX_WEIGHT:
                raise ValueError(
                    f"the weight of {source} is {weight}; it must lie between 0 and {_MAX_WEIGHT:g}"
                )
        if len(dict(self.weights)) < len(self.weights):
            raise ValueError("weights name a source twice")

    def check_sources(self, known: Collection[str]) -> None:
        """Raise ConfigError if a source has a weight and no documents."""
        for source, _ in self.weights:
            if source not in known:
                raise ConfigError(
                    f"mixture.weights: no document has the source {source!r}"
                    f"{did_you_mean(source, known)}"
                )


def num_copies(weight: float, content_hash: bytes, seed: int) -> int:
    """Return how often a document is in the training text: floor of the weight, or one more."""
    whole = math.floor(weight)
    drawn = draw("mixture", seed, content_hash) < (weight - whole) * 2.0**64
    return whole + drawn


def weigh_sources(
    runner: TaskRunner,
    documents: Documents,
    assignment: Assignment,
    config: MixtureConfig,
    seed: int,
) -> DividedDocuments:
    """Drop and repeat the training documents of sources that have a weight."""
    if not config.weights:
        return DividedDocuments(documents=documents, assignment=assignment)
    num_partitions = len(documents.partitions)
    tasks = documents.tasks(
        lambda each: (each, assignment, config, num_partitions, seed),
        [to_dict(config), seed, assignment.to_json()],
    )
    results = runner.run("weighing sources", weigh_partition, tasks)
    return DividedDocuments(
        documents=documents.masked_by(results),
        assignment=assignment,
        copies=written_partitions(results, num_partitions),
    )


def weigh_partition(
    folder: Path,
    advance: Callable[[int], None],
    partition: Partition,
    assignment: Assignment,
    config: MixtureConfig,
    num_partitions: int,
    seed: int,
) -> dict[str, Any]:
    """Write which rows are kept (bool), and the second and further copies of documents.

    Copies belong to all partitions.
    """
    weights = dict(config.weights)
    is_kept: list[bool] = []
    with (
        DocumentWriter(folder, num_partitions, seed) as copies,
        DropLog(folder, MIXTURE_STAGE) as log,
    ):
        for batch in partition.batches():
            numbers = _numbers(batch, assignment, weights, seed)
            is_kept += [number > 0 for number in numbers]
            for row in (row for row, number in enumerate(numbers) if number != 1):
                values = {name: batch.column(name)[row].as_py() for name in _COLUMNS}
                digest, num_bytes = values.pop("hash"), values.pop("num_bytes")
                document = Document(**values)
                if not numbers[row]:
                    _drop(log, document, digest, num_bytes, weights[document.source])
                for copy in range(1, numbers[row]):
                    copies.write(document, num_bytes, digest, copy)
            advance(sum(batch.column("num_bytes").to_pylist()))
    save_array(folder / KEPT_NAME, np.array(is_kept, bool))
    return stage_result(log.counts, copies.batches)


def _numbers(
    batch: pa.RecordBatch, assignment: Assignment, weights: Mapping[str, float], seed: int
) -> list[int]:
    """Return the number of copies of each document."""
    numbers = [1] * batch.num_rows
    names = zip(batch.column("source").to_pylist(), batch.column("hash").to_pylist(), strict=True)
    for row, (source, digest) in enumerate(names):
        weight = weights.get(source, 1.0)
        if weight != 1 and assignment.divide(digest, batch.column("text")[row].as_py())[0]:
            numbers[row] = num_copies(weight, digest, seed)
    return numbers


def _drop(log: DropLog, document: Document, digest: bytes, num_bytes: int, weight: float) -> None:
    log.drop(
        id=document.id,
        location=document.location,
        source=document.source,
        reason=MIXTURE_WEIGHT,
        num_bytes=num_bytes,
        text=document.text,
        detail=f"{document.source} has weight {weight:g}",
        hash=digest.hex(),
    )
