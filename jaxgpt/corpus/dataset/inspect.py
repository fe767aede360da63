"""Inspection of a finished dataset: places of documents, or reasons why they were dropped.

The index and the list of removed documents are streamed, not held in memory.
"""

import dataclasses
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from jaxgpt.corpus.dataset.listings import read_listing
from jaxgpt.corpus.dataset.similar import find_similar
from jaxgpt.corpus.dataset.stored_documents import (
    StoredDocument,
    count_control_ids,
    read_text,
    stored_documents,
)
from jaxgpt.corpus.dataset.suggestions import suggest_name
from jaxgpt.corpus.documents.document import SAMPLE_CHARACTERS, shorten
from jaxgpt.corpus.documents.splits import SPLITS, draw
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import UsageError
from jaxgpt.tokenizer.tokenizer import Tokenizer

# Of the documents that were removed in favour of one, and of those that have the id of a kept one.
MAX_NEIGHBOURS = 10
# A character takes at most four tokens; this many give more text than is shown.
_SAMPLE_TOKENS = 8 * SAMPLE_CHARACTERS

Removed = dict[str, Any]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Documents to show: exactly one name is given, or none with `num_random`.

    Attributes:
        id: kept and removed documents with this id.
        location: kept and removed documents from this place, `path:line`.
        source: kept documents of this source.
        reason: documents removed for this reason.
        num_random: number of these documents to draw; without a name, of all kept ones.
        seed: of the draw.
        max_documents: without `num_random`, number of first documents to show.
    """

    id: str | None = None
    location: str | None = None
    source: str | None = None
    reason: str | None = None
    num_random: int | None = None
    seed: int = 0
    max_documents: int = 10

    @property
    def name(self) -> tuple[str, str]:
        """Return (given field, its value); ("", "") if none is given.

        Raises:
            UsageError: more than one is given, or nothing at all.
        """
        given = [
            (name, value)
            for name in ("id", "location", "source", "reason")
            if (value := getattr(self, name)) is not None
        ]
        if len(given) > 1 or (not given and self.num_random is None):
            raise UsageError(
                "choose documents by one of --id, --location, --source and --reason, or draw some "
                "by --random, alone or together with --source or --reason"
            )
        return given[0] if given else ("", "")


def inspect(
    dataset: TokenDataset, selection: Selection, full: bool = False, num_similar: int = 0
) -> dict[str, Any]:
    """Describe the selected documents with their neighbours, as plain JSON values.

    Args:
        dataset: a finished dataset.
        selection: which documents.
        full: give texts whole, not only their beginning.
        num_similar: number of most similar documents to name with each kept one.

    Returns:
        `num_found`, and `documents`: first kept ones, then removed ones. See docs/dataset_tools.md.

    Raises:
        UsageError: nothing is selected, or no document is; the closest known name is given.
        MismatchError: a file of the dataset is missing or damaged.
    """
    column, value = selection.name
    kept, num_kept = [], 0
    if column != "reason":
        values = [value] if column else []
        found = itertools.chain.from_iterable(
            stored_documents(dataset, split, column, values) for split in SPLITS
        )
        kept, num_kept = _choose(found, selection, lambda one: f"{one.split}:{one.location}")
    removed, num_removed = [], 0
    if column in ("id", "location", "reason"):
        found = (entry for entry in _removed_documents(dataset) if entry.get(column) == value)
        removed, num_removed = _choose(found, selection, lambda entry: entry["location"])
    if not num_kept + num_removed:
        raise UsageError(
            f"{dataset.directory} has no document with {column} {value!r}, kept or removed"
            f"{suggest_name(dataset, column, value)}"
            if column
            else f"{dataset.directory} has no documents"
        )
    show = _Reader(dataset, full)
    documents = _describe_kept(dataset, kept, show)
    if num_similar and kept:
        similar = find_similar(dataset, kept, num_similar)
        documents = [
            document | {"similar": [_name(*each) for each in found]}
            for document, found in zip(documents, similar, strict=True)
        ]
    documents += _describe_removed(dataset, removed, show)
    return {"num_found": num_kept + num_removed, "documents": documents}


def _choose(
    found: Iterable[T], selection: Selection, name_of: Callable[[T], str]
) -> tuple[list[T], int]:
    """Return (documents to show, number of all). A draw does not depend on the order."""
    counter = itertools.count()
    counted = (document for document, _ in zip(found, counter, strict=False))
    if selection.num_random is None:
        chosen = list(itertools.islice(counted, selection.max_documents))
        for _ in counted:
            pass
    else:
        chosen = heapq.nsmallest(
            selection.num_random,
            counted,
            key=lambda document: draw("inspect", selection.seed, name_of(document).encode()),
        )
    return chosen, next(counter)


class _Reader:
    """Describes stored documents, with their text."""

    def __init__(self, dataset: TokenDataset, full: bool) -> None:
        self._dataset = dataset
        self._tokenizer: Tokenizer = dataset.load_tokenizer()
        self._full = full

    def __call__(self, document: StoredDocument) -> dict[str, Any]:
        max_tokens = None if self._full else _SAMPLE_TOKENS
        text = read_text(self._dataset, self._tokenizer, document, max_tokens)
        shown = text if self._full else shorten(text)
        described = {"status": "kept", **dataclasses.asdict(document), "text": shown}
        if control_ids := count_control_ids(self._dataset, self._tokenizer, document):
            described["control_ids"] = control_ids
        return described


def _describe_kept(
    dataset: TokenDataset, kept: Sequence[StoredDocument], show: _Reader
) -> list[dict[str, Any]]:
    """Describe kept documents, each with those that were removed in its favour."""
    ids = {document.id for document in kept}
    counts: Counter[str] = Counter()
    neighbours: dict[str, list[Removed]] = {document.location: [] for document in kept}
    for entry in _removed_documents(dataset) if kept else ():
        if entry.get("kept_id") not in ids:
            continue
        for location in {one.location for one in kept if _is_kept_for(one, entry)}:
            counts[location] += 1
            if counts[location] <= MAX_NEIGHBOURS:
                neighbours[location].append(entry)
    return [
        show(document)
        | {
            "num_removed_for_it": counts[document.location],
            "removed_for_it": neighbours[document.location],
        }
        for document in kept
    ]


def _name(similarity: float, document: StoredDocument) -> dict[str, Any]:
    return {
        "similarity": similarity,
        **{name: getattr(document, name) for name in ("split", "id", "location", "source")},
    }


def _describe_removed(
    dataset: TokenDataset, removed: Sequence[Removed], show: _Reader
) -> list[dict[str, Any]]:
    """Describe removed documents, each with the one that was kept for it.

    A later stage may have removed that one, too: then the documents that it was removed for follow,
    one after the other, to the one that is in the dataset.
    """
    chains = follow_kept(removed, lambda: _removed_documents(dataset))
    entries = [entry for chain in chains for entry in chain]
    ids = {entry["kept_id"] for entry in entries if "kept_id" in entry}
    in_shards = (
        document
        for split in (SPLITS if ids else ())
        for document in stored_documents(dataset, split, "id", ids)
        if any(_is_kept_for(document, entry) for entry in entries)
    )
    kept = list(itertools.islice(in_shards, MAX_NEIGHBOURS * len(entries)))
    return [
        {
            "status": "removed",
            **chain[0],
            "kept": [
                show(document)
                for document in kept
                if any(_is_kept_for(document, entry) for entry in chain)
            ],
            "kept_was_removed": chain[1:],
        }
        for chain in chains
    ]


def follow_kept(
    removed: Sequence[Removed], listing: Callable[[], Iterable[Removed]]
) -> list[list[Removed]]:
    """Return each removed document with the chain of removed ones that were kept for it.

    Args:
        removed: some documents of the listing.
        listing: opens the list of all removed documents; it is read once for each link.
    """
    chains = [[entry] for entry in removed]
    growing = chains
    while wanted := {name: [] for chain in growing if (name := _kept_name(chain[-1])) is not None}:
        found: dict[tuple[str, str | None], list[Removed]] = wanted
        for entry in listing():
            for name in ((entry["id"], entry["location"]), (entry["id"], None)):
                if name in found and len(found[name]) < MAX_NEIGHBOURS:
                    found[name].append(entry)
        grown = []
        for chain in growing:
            links = [
                entry
                for entry in found.get(_kept_name(chain[-1]) or ("", None), ())
                if entry not in chain
            ]
            # Without its place, a document that is named by an id that repeats may be any of these.
            chain += links
            if links:
                grown.append(chain)
        growing = grown
    return chains


def _kept_name(entry: Removed) -> tuple[str, str | None] | None:
    """Return id and place of the document that was kept for one; of older datasets no place."""
    if "kept_id" not in entry:
        return None
    return entry["kept_id"], entry.get("kept_location")


def _is_kept_for(document: StoredDocument, entry: Removed) -> bool:
    """Return whether a removal names this document: by place if the list has it, else by id."""
    if "kept_location" in entry:
        return entry["kept_location"] == document.location
    return entry.get("kept_id") == document.id


def _removed_documents(dataset: TokenDataset) -> Iterator[Removed]:
    return read_listing(dataset.directory / REMOVED_NAME)
