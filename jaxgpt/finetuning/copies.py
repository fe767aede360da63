"""Copies among examples: exact ones, of which the first is kept, near ones, and those of tests.

Near copies and copies of evaluation files are only counted: whether they matter is for people.

Axes: E examples, B bands, P pairs of documents.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from jaxgpt.corpus.dedup.near.clusters import connected_clusters, star_edges
from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
from jaxgpt.corpus.dedup.near.lsh import band_keys
from jaxgpt.corpus.dedup.near.minhash import sign
from jaxgpt.corpus.dedup.near.shingles import shingle
from jaxgpt.corpus.filters.decontamination import DecontaminationConfig, summarize
from jaxgpt.corpus.text.batch import TextBatch
from jaxgpt.errors import UsageError
from jaxgpt.finetuning.forms.form import Example

_TEXTS_AT_ONCE = 1000


@dataclass(frozen=True)
class NearCopies:
    """Examples that are nearly equal.

    Attributes:
        groups_E: int64, a number that near copies have in common; -1 for an example without any.
        pairs: some pairs of examples and their Jaccard similarity, the most similar first.
    """

    groups_E: np.ndarray
    pairs: tuple[tuple[int, int, float], ...]

    @property
    def num_groups(self) -> int:
        """Return the number of groups."""
        return len(np.unique(self.groups_E[self.groups_E >= 0]))

    @property
    def num_copies(self) -> int:
        """Return the examples beyond the first of each group."""
        return int((self.groups_E >= 0).sum()) - self.num_groups


def first_of_copies(examples: Sequence[Example]) -> np.ndarray:
    """Return the first example that is equal to each, roles and labels included: int64 [E]."""
    seen: dict[bytes, int] = {}
    firsts = [seen.setdefault(_digest(each), place) for place, each in enumerate(examples)]
    return np.array(firsts, np.int64)


def text_of(example: Example) -> str:
    """Return all text of an example, once where the sequences of a pair share it."""
    first, *others = example.sequences
    parts = [*first, *(part for each in others for part in each[example.num_prompt_parts :])]
    return "\n".join(part.text for part in parts)


def find_near_copies(texts: Sequence[str], threshold: float) -> NearCopies:
    """Return the texts whose sets of word 5-grams have at least this Jaccard similarity.

    MinHash proposes pairs (`corpus/dedup/near/`), the sets decide.
    """
    config = NearDuplicatesConfig(threshold=threshold)
    keys, with_words = [np.zeros((0, config.num_bands), np.uint64)], [np.zeros(0, np.int64)]
    for start, some in _batches(texts):
        shingles = shingle(some, config.ngram)
        signatures = sign(shingles, config.num_bands * config.num_rows)
        has_words = shingles.counts_D > 0
        keys.append(band_keys(signatures, config.num_bands, config.num_rows)[has_words])
        with_words.append(np.flatnonzero(has_words) + start)
    keys_EB, places_E = np.concatenate(keys), np.concatenate(with_words)
    edges = star_edges(keys_EB.ravel(), np.repeat(places_E, config.num_bands))
    similarity_P = _similarities(texts, edges, config.ngram)
    is_near = similarity_P >= threshold
    edges, similarity_P = edges[is_near], similarity_P[is_near]
    documents, clusters = connected_clusters(edges)
    groups_E = np.full(len(texts), -1, np.int64)
    groups_E[documents] = clusters
    order = np.argsort(-similarity_P, kind="stable")[:3].tolist()
    pairs = [(int(edges[p, 0]), int(edges[p, 1]), float(similarity_P[p])) for p in order]
    return NearCopies(groups_E, tuple(pairs))


def _similarities(texts: Sequence[str], edges: np.ndarray, ngram: int) -> np.ndarray:
    """Return the Jaccard similarity of each pair of texts: float64 [P]."""
    places = np.unique(edges)
    chosen: list[str] = [texts[int(place)] for place in places]
    sets: dict[int, np.ndarray] = {}
    for start, some in _batches(chosen):
        shingles = shingle(some, ngram)
        for number in range(len(some)):
            sets[int(places[start + number])] = shingles.unique(number)
    similarities = np.zeros(len(edges))
    for number, (one, other) in enumerate(edges.tolist()):
        common = len(np.intersect1d(sets[one], sets[other], assume_unique=True))
        similarities[number] = common / (len(sets[one]) + len(sets[other]) - common)
    return similarities


def count_evaluation_copies(texts: Sequence[str], files: Sequence[str]) -> dict[str, int]:
    """Return the texts that share 13 words in a row with each evaluation file.

    Raises:
        UsageError: there is no such file, or it is of a kind that cannot be read.
        BadInputError: it is damaged.
    """
    for name in files:
        if not Path(name).is_file():
            raise UsageError(f"no evaluation file at {name}; name existing ones, or none")
    config = DecontaminationConfig(files=tuple(files), action="report")
    counts: dict[str, int] = {}
    for step in config.build():
        for _, some in _batches(texts):
            for name, count in step(TextBatch(texts=some, urls=[""] * len(some))).counts.items():
                counts[name] = counts.get(name, 0) + count
    return {each["file"]: each["num_documents_hit"] for each in summarize(config, counts)}


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        yield start, list(texts[start : start + _TEXTS_AT_ONCE])


def _digest(example: Example) -> bytes:
    content = json.dumps([example.sequences, example.label], ensure_ascii=True)
    return xxhash.xxh3_128_digest(content.encode())
