"""Selection of the documents of a takedown, in the shards and among those removed before. The text
of a document that was removed as a duplicate may be in the shards under the name of the kept one.
So each removed document is followed to the one that was kept for it, and from there to the next, if
that one was removed later.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxgpt.corpus.dataset.document_index import index_rows
from jaxgpt.corpus.dataset.listings import read_listing
from jaxgpt.corpus.dataset.rewrite import Marked
from jaxgpt.corpus.dataset.suggestions import suggest_name
from jaxgpt.corpus.documents.splits import SPLITS
from jaxgpt.corpus.stages.exclude_taken_down import is_taken_down
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import UsageError

_COLUMNS = ("source", "id", "location")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Takedown:
    """Documents to take down: those that have any of these names.

    Attributes:
        sources, ids, locations: as the index of the dataset has them.
        note: recorded as it is, such as the date and number of a request.
        ignore_unknown: names that the dataset does not have are no error.
        with_kept: where a named document was removed as a duplicate, what was kept for it goes.
    """

    sources: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()
    note: str = ""
    ignore_unknown: bool = False
    with_kept: bool = False

    def names(self) -> dict[str, tuple[str, ...]]:
        """Return the names by the column of the index that has them."""
        return {"source": self.sources, "id": self.ids, "location": self.locations}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named:
    """Documents that a takedown names.

    Attributes:
        marked: by split, the documents of the shards to take down.
        num_removed_before: documents that had been removed before, and were not taken down.
        ids, locations: of these.
        shown_locations: theirs, and those of all that were kept for them, of which samples may
            show their text.
    """

    marked: Mapping[str, Marked]
    num_removed_before: int
    ids: frozenset[str]
    locations: frozenset[str]
    shown_locations: frozenset[str]

    def is_removed_before(self, entry: Mapping[str, Any]) -> bool:
        """Return whether a line of removed.jsonl.zst is of one of these documents."""
        is_named = entry["id"] in self.ids or entry["location"] in self.locations
        return is_named and not is_taken_down(entry)

    @property
    def is_nothing(self) -> bool:
        """Return whether all named documents are out already."""
        goes = any(each.goes_N.any() for each in self.marked.values())
        return not goes and not self.num_removed_before


def find_named(dataset: TokenDataset, takedown: Takedown) -> Named:
    """Find the documents that a takedown names.

    Raises:
        UsageError: a name is of no document, kept or removed; or one that is named was removed as
            a duplicate of one that is in the shards and does not go.
    """
    found: dict[str, set[str]] = {column: set() for column in _COLUMNS}
    marked = {split: _mark(dataset, split, takedown.names(), found) for split in SPLITS}
    if not takedown.ignore_unknown:
        _refuse_unknown(dataset, takedown, found)
    named = Named(
        marked=marked,
        num_removed_before=0,
        ids=frozenset(takedown.ids),
        locations=frozenset(takedown.locations),
        shown_locations=frozenset(),
    )
    removed = [entry for entry in _listing(dataset) if named.is_removed_before(entry)]
    trail = _Trail(removed)
    while trail.follow(_listing(dataset)):
        pass
    if kept := trail.standing(dataset, marked):
        if not takedown.with_kept:
            raise UsageError(_say_what_was_kept(dataset, kept))
        names = {"location": tuple(kept)}
        further = {split: _mark(dataset, split, names, found) for split in SPLITS}
        marked = {
            split: dataclasses.replace(each, goes_N=each.goes_N | further[split].goes_N)
            for split, each in marked.items()
        }
    return dataclasses.replace(
        named,
        marked=marked,
        num_removed_before=len(removed),
        shown_locations=frozenset(trail.locations),
    )


class _Trail:
    """From documents that were removed to those that were kept for them.

    Attributes:
        locations: of all that it has come by.
    """

    def __init__(self, removed: list[dict[str, Any]]) -> None:
        self.locations: set[str] = set()
        # The document that is named, for what was kept for it. Older lists have only its id.
        self._by_location: dict[str, str] = {}
        self._by_id: dict[str, str] = {}
        for entry in removed:
            self._add(entry, entry["id"])

    def follow(self, listing: Iterator[dict[str, Any]]) -> bool:
        """Continue from documents that were removed themselves; return whether any was new."""
        num_before = len(self.locations)
        for entry in listing:
            origin = self._origin(entry["id"], entry["location"])
            if origin is not None and entry["location"] not in self.locations:
                self._add(entry, origin)
        return len(self.locations) > num_before

    def standing(
        self, dataset: TokenDataset, marked: Mapping[str, Marked]
    ) -> dict[str, tuple[str, str]]:
        """Return documents that stay in the shards: location -> (id, the named document)."""
        found: dict[str, tuple[str, str]] = {}
        for split in SPLITS if self._by_location or self._by_id else ():
            start = 0
            for batch in index_rows(dataset.directory, split):
                stays_N = ~marked[split].goes_N[start : start + batch.num_rows]
                start += batch.num_rows
                reached_N = _is_in(batch, "location", self._by_location)
                reached_N |= _is_in(batch, "id", self._by_id)
                for row in batch.filter(pa.array(stays_N & reached_N)).to_pylist():
                    origin = self._origin(row["id"], row["location"])
                    found[row["location"]] = (row["id"], str(origin))
                    self.locations.add(row["location"])
        return found

    def _origin(self, id: str, location: str) -> str | None:
        return self._by_location.get(location, self._by_id.get(id))

    def _add(self, entry: Mapping[str, Any], origin: str) -> None:
        self.locations.add(entry["location"])
        if "kept_location" in entry:
            self._by_location.setdefault(entry["kept_location"], origin)
        elif "kept_id" in entry:
            self._by_id.setdefault(entry["kept_id"], origin)


def _say_what_was_kept(dataset: TokenDataset, kept: Mapping[str, tuple[str, str]]) -> str:
    location = min(kept)
    own_id, origin = kept[location]
    more = f" (and {len(kept) - 1} more like it)" if len(kept) > 1 else ""
    return (
        f"{origin!r} was removed from {dataset.directory} as a duplicate of {own_id!r}, which is "
        f"in it and has the same text, or nearly{more}: also name that one, with --location "
        f"{location}, or take down all such documents with --with-kept"
    )


def _mark(
    dataset: TokenDataset,
    split: str,
    names: Mapping[str, tuple[str, ...]],
    found: Mapping[str, set[str]],
) -> Marked:
    """Return the documents of a split to take down; `found` gets the names that exist."""
    goes, tokens, sizes = [], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for batch in index_rows(dataset.directory, split):
        goes_N = np.zeros(batch.num_rows, bool)
        for column, values in names.items():
            is_named_N = _is_in(batch, column, values)
            named = batch.column(column).filter(pa.array(is_named_N))
            found[column].update(named.unique().to_pylist())
            goes_N |= is_named_N
        goes.append(goes_N)
        tokens.append(batch.column("num_tokens").to_numpy())
        sizes.append(batch.column("num_bytes").to_numpy())
    return Marked(
        goes_N=np.concatenate([np.zeros(0, bool), *goes]),
        ends_N=np.cumsum(np.concatenate(tokens)),
        bytes_N=np.concatenate(sizes),
    )


def _is_in(batch: pa.RecordBatch, column: str, values: Any) -> np.ndarray:
    """Return whether a column has one of some values, row by row: bool [N]."""
    value_set = pa.array(list(values), pa.string())
    is_in = pc.is_in(batch.column(column), value_set=value_set)  # type: ignore
    return is_in.to_numpy(zero_copy_only=False)


def _refuse_unknown(
    dataset: TokenDataset, takedown: Takedown, found: Mapping[str, set[str]]
) -> None:
    """Raise UsageError if a name is of no document, kept or removed."""
    missing = {column: set(names) - found[column] for column, names in takedown.names().items()}
    missing["source"] -= {source["name"] for source in dataset.manifest["sources"]}
    if any(missing.values()):
        for entry in _listing(dataset):
            for column in ("id", "location"):
                missing[column].discard(entry[column])
    for column, names in missing.items():
        if names:
            first = min(names)
            more = f", and {len(names) - 1} more like it" if len(names) > 1 else ""
            raise UsageError(
                f"{dataset.directory} has no document with {column} {first!r}{more}"
                f"{suggest_name(dataset, column, first)}; --ignore-unknown takes down the others"
            )


def _listing(dataset: TokenDataset) -> Iterator[dict[str, Any]]:
    return read_listing(dataset.directory / REMOVED_NAME)
