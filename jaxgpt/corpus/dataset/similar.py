"""Most similar documents of some documents in a dataset. Every document is compared, by the exact
similarity of the sets of shingles, so pairs without a common band, which the search for near
duplicates leaves out, are found here. That reads all text once.

Axes: Q documents that are asked for, S shingles.
"""

import heapq
from collections.abc import Iterator, Sequence

import numpy as np

from jaxgpt.corpus.dataset.stored_documents import StoredDocument, read_text, stored_documents
from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
from jaxgpt.corpus.dedup.near.shingles import shingle
from jaxgpt.corpus.documents.splits import SPLITS
from jaxgpt.data.shards import TokenDataset

_TEXTS_AT_ONCE = 256

Similar = tuple[float, StoredDocument]


def find_similar(
    dataset: TokenDataset, documents: Sequence[StoredDocument], num: int
) -> list[list[Similar]]:
    """Return, for each document, the `num` most similar others and the Jaccard similarity.

    Shingles have as many words as those of the build, or as by default. Documents that have no
    shingle in common are never among them.

    Raises:
        MismatchError: a file of the dataset is missing or damaged.
    """
    settings = dataset.manifest.get("settings", {}).get("near_duplicates", {})
    ngram = settings.get("ngram", NearDuplicatesConfig().ngram)
    tokenizer = dataset.load_tokenizer()
    texts = [read_text(dataset, tokenizer, document) for document in documents]
    wanted = shingle(texts, ngram)
    sets = [wanted.unique(query) for query in range(len(documents))]
    sizes_Q = np.array([len(each) for each in sets], np.int64)
    owners_S = np.repeat(np.arange(len(documents)), sizes_Q)
    hashes_S = np.concatenate([np.zeros(0, np.uint64), *sets])
    order = np.argsort(hashes_S, kind="stable")
    hashes_S, owners_S = hashes_S[order], owners_S[order]
    found: list[list[Similar]] = [[] for _ in documents]
    for others, other_texts in _batches(dataset):
        shingles = shingle(other_texts, ngram)
        for number, other in enumerate(others):
            own = shingles.unique(number)
            starts = np.searchsorted(hashes_S, own)
            counts = np.searchsorted(hashes_S, own, "right") - starts
            hit = np.flatnonzero(counts)
            places = np.concatenate(
                [np.zeros(0, np.int64), *(np.arange(starts[n], starts[n] + counts[n]) for n in hit)]
            )
            common_Q = np.bincount(owners_S[places], minlength=len(documents))
            for query in np.flatnonzero(common_Q).tolist():
                if other == documents[query]:
                    continue
                common = int(common_Q[query])
                similarity = common / (int(sizes_Q[query]) + len(own) - common)
                found[query] = heapq.nsmallest(
                    num,
                    [*found[query], (similarity, other)],
                    key=lambda each: (-each[0], each[1].location),
                )
    return found


def _batches(dataset: TokenDataset) -> Iterator[tuple[list[StoredDocument], list[str]]]:
    tokenizer = dataset.load_tokenizer()
    documents: list[StoredDocument] = []
    texts: list[str] = []
    for split in SPLITS:
        for document in stored_documents(dataset, split):
            documents.append(document)
            texts.append(read_text(dataset, tokenizer, document))
            if len(texts) >= _TEXTS_AT_ONCE:
                yield documents, texts
                documents, texts = [], []
    yield documents, texts
