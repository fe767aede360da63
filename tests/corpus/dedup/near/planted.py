"""Documents with planted edits, and what comparing every pair of them finds."""

import random
import re
from collections.abc import Sequence
from pathlib import Path

from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
from jaxgpt.corpus.dedup.near.pipeline import NearDuplicates, find_near_duplicates
from jaxgpt.corpus.dedup.near.shingles import shingle
from jaxgpt.corpus.documents.document import Document
from jaxgpt.corpus.documents.document_files import FILE_NAME, DocumentWriter
from jaxgpt.corpus.documents.partition import Partition, gather_partitions
from jaxgpt.corpus.execution.executor import Executor, SerialExecutor
from jaxgpt.corpus.execution.progress import BuildProgress
from jaxgpt.corpus.execution.tasks import TaskRunner
from jaxgpt.stop_signal import StopSignal

_VOCABULARY = [f"w{number}" for number in range(4000)]
# As in natural text, the n-th most frequent word is n times as rare as the first.
_WEIGHTS = [1 / (number + 1) for number in range(len(_VOCABULARY))]


def natural_text(rng: random.Random, num_words: int) -> str:
    """Words by Zipf's law."""
    return " ".join(rng.choices(_VOCABULARY, _WEIGHTS, k=num_words))


def edit_words(
    text: str, share: float, rng: random.Random, vocabulary: Sequence[str] = _VOCABULARY
) -> str:
    """Replace (60 %), insert (20 %) or delete (20 %) a word, at this share of the words."""
    pieces = []
    for piece in re.findall(r"\S+\s*", text):
        word = piece.rstrip()
        space = piece[len(word) :]
        if rng.random() >= share:
            pieces.append(piece)
            continue
        kind = rng.choices(["replace", "insert", "delete"], [6, 2, 2])[0]
        other = rng.choice(vocabulary)
        if kind == "replace":
            pieces.append(other + space)
        elif kind == "insert":
            pieces.append(f"{other} {piece}")
    return "".join(pieces)


def make_documents(texts: list[str]) -> list[Document]:
    """Documents named by their place in `texts`."""
    return [
        Document(id=f"id-{number}", text=text, location=f"file:{number}", source=f"s{number % 3}")
        for number, text in enumerate(texts)
    ]


def store(folder: Path, documents: list[Document], num_partitions: int) -> list[Partition]:
    """Documents as reading leaves them."""
    folder.mkdir(parents=True)
    with DocumentWriter(folder, num_partitions, 0) as writer:
        for document in documents:
            writer.write(document, len(document.text.encode()))
    return gather_partitions([(folder / FILE_NAME, writer.batches)], num_partitions)


def run(
    folder: Path,
    partitions: list[Partition],
    config: NearDuplicatesConfig | None = None,
    executor: Executor | None = None,
    older: list[Partition] | None = None,
) -> NearDuplicates:
    """All stages, from stored documents on."""
    runner = TaskRunner(folder / "work", executor or SerialExecutor(), BuildProgress(StopSignal()))
    return find_near_duplicates(
        runner, partitions, config or NearDuplicatesConfig(), "key", older or []
    )


def shingle_sets(texts: list[str]) -> list[set[int]]:
    """The set of shingles of each text."""
    shingles = shingle(texts, 5)
    return [set(shingles.unique(number).tolist()) for number in range(len(texts))]


def jaccard(one: set[int], other: set[int]) -> float:
    """Of two sets that are not both empty."""
    return len(one & other) / len(one | other)
