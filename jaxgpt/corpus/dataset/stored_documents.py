"""Documents of a finished dataset: their entries in the index, and their text from the shards."""

import dataclasses
from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxgpt.corpus.dataset.document_index import check_index, index_rows
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import MismatchError
from jaxgpt.tokenizer.tokenizer import Tokenizer

_NAMES = ("id", "location", "source", "license", "url")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """A document in the shards.

    Attributes:
        split: `train` or `val`.
        number: in its split, counted from 0.
        first_token: where it begins, counted from 0 through the split; it begins with BOS.
        num_tokens: BOS and EOS included.
        num_bytes: of its text as UTF-8.
        id, location, source, license, url: as in `Document`.
    """

    split: str
    number: int
    first_token: int
    num_tokens: int
    num_bytes: int
    id: str
    location: str
    source: str
    license: str
    url: str


def stored_documents(
    dataset: TokenDataset, split: str, column: str = "", values: Collection[str] = ()
) -> Iterator[StoredDocument]:
    """Yield the documents of a split in the order of the shards; one index batch is in memory.

    Args:
        dataset: a finished dataset.
        split: which split.
        column: of `id`, `location` and `source`; only documents that have one of `values` there.
            "" for all documents.
        values: see `column`.

    Raises:
        MismatchError: the index is missing or damaged, or is not that of the shards.
    """
    stored = dataset.splits[split]
    number, first_token = 0, 0
    value_set = pa.array(sorted(values), pa.string())
    for batch in index_rows(dataset.directory, split):
        # Rows beyond those of the manifest are of an append that is just taking its place.
        batch = batch.slice(0, stored.num_documents - number)
        num_tokens_N = batch.column("num_tokens").to_numpy()
        ends_N = first_token + np.cumsum(num_tokens_N)
        wanted = batch
        rows = np.arange(batch.num_rows)
        if column:
            is_wanted = pc.is_in(batch.column(column), value_set=value_set)  # type: ignore
            rows = np.flatnonzero(is_wanted.to_numpy(zero_copy_only=False))
            wanted = batch.take(pa.array(rows))
        names = (wanted.column(name).to_pylist() for name in _NAMES)
        sizes = wanted.column("num_bytes").to_pylist()
        for row, num_bytes, *name in zip(rows.tolist(), sizes, *names, strict=True):
            num_tokens = int(num_tokens_N[row])
            yield StoredDocument(
                split=split,
                number=number + row,
                first_token=int(ends_N[row]) - num_tokens,
                num_tokens=num_tokens,
                num_bytes=num_bytes,
                **dict(zip(_NAMES, name, strict=True)),
            )
        number += batch.num_rows
        first_token = int(ends_N[-1]) if len(ends_N) else first_token
    check_index(dataset, split, number, first_token)


def count_control_ids(
    dataset: TokenDataset, tokenizer: Tokenizer, document: StoredDocument
) -> dict[str, int]:
    """Return how often each control id is inside a document, by name; text has none."""
    start = document.first_token
    ids = dataset.splits[document.split].read(start, start + document.num_tokens)[1:-1]
    counts = {name: int((ids == id).sum()) for name, id in tokenizer.special_ids.items()}
    return {name: count for name, count in counts.items() if count}


def read_text(
    dataset: TokenDataset,
    tokenizer: Tokenizer,
    document: StoredDocument,
    max_tokens: int | None = None,
) -> str:
    """Return the text of a document, or of its first `max_tokens` tokens.

    Raises:
        MismatchError: the shards have no document there.
    """
    split = dataset.splits[document.split]
    start, stop = document.first_token, document.first_token + document.num_tokens
    shown_stop = stop if max_tokens is None else min(stop, start + max_tokens)
    try:
        ids = split.read(start, shown_stop)
        last = ids[-1] if shown_stop == stop else split.read(stop - 1, stop)[0]
        is_document = (ids[0], last) == (tokenizer.bos_id, tokenizer.eos_id)
    except IndexError:
        is_document, ids = False, np.empty(0, np.int32)
    if not is_document:
        raise MismatchError(
            f"{dataset.directory}: the index says that document {document.number} of "
            f"{document.split} ({document.location}) is at tokens {start}.."
            f"{stop - 1}, and the shards have no document there; build the dataset again"
        )
    return tokenizer.decode(ids.tolist())
