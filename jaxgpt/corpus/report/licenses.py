"""Licences of a dataset, by source: documents, bytes and tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from jaxgpt.corpus.dataset.document_index import index_rows
from jaxgpt.corpus.stats.counts import MAX_SOURCES, OTHER_SOURCES, SourceCounts
from jaxgpt.reports.page import Section, Table
from jaxgpt.reports.units import format_bytes

_COUNTS = ("num_documents", "num_bytes", "num_tokens")
_COLUMNS = ("source", "license", "num_bytes", "num_tokens")
_MAX_SHOWN = 50


def list_licenses(
    folder: Path, is_divided: bool, sources: Mapping[str, SourceCounts]
) -> list[dict[str, Any]]:
    """Sum up the indexes of both splits in `folder`.

    Copies for training, which a weight asked for, do not count: of each source, the sums are
    `kept`, `num_bytes` and `num_tokens` of its tally.

    Args:
        is_divided: whether every document has a share in either split, and counts once.
        sources: by name; the others are counted together, as in the tally.

    Returns:
        JSON objects: source, license ("" where a record named none), num_documents, num_bytes,
        num_tokens; sorted by source and licence. Beyond MAX_SOURCES the ones with least text are
        counted together, by licence.

    Memory: about 60 bytes for each document, and each copy, of sources that have copies.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    copies = _find_copies(folder, sources)
    for split in ("train", "val"):
        is_counted = split == "train" or not is_divided
        start = 0
        for batch in index_rows(folder, split):
            table = pa.table([_known(batch, sources), *_columns(batch)], _COLUMNS)
            if split == "train" and len(copies):
                stays = np.ones(len(table), bool)
                first, end = np.searchsorted(copies, [start, start + len(table)])
                stays[copies[first:end] - start] = False
                table = table.filter(pa.array(stays))
            start += batch.num_rows
            sums = table.group_by(["source", "license"]).aggregate(
                [("num_bytes", "count"), ("num_bytes", "sum"), ("num_tokens", "sum")]
            )
            sums = sums.select(
                ["source", "license", "num_bytes_count", "num_bytes_sum", "num_tokens_sum"]
            )
            for source, name, num_documents, *sizes in zip(*sums.to_pydict().values(), strict=True):
                _add(counts, (source, name), [num_documents if is_counted else 0, *sizes])
    return [
        {"source": source, "license": name, **dict(zip(_COUNTS, values, strict=True))}
        for (source, name), values in sorted(_fold(counts).items())
    ]


def _known(batch: pa.RecordBatch, sources: Mapping[str, SourceCounts]) -> pa.Array:
    """Return the source of each row, as the tally names it."""
    encoded = batch.column("source").dictionary_encode()
    names = [name if name in sources else OTHER_SOURCES for name in encoded.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(encoded.indices)


def _columns(batch: pa.RecordBatch) -> list[pa.Array]:
    return [batch.column(name) for name in _COLUMNS[1:]]


def _find_copies(folder: Path, sources: Mapping[str, SourceCounts]) -> np.ndarray:
    """Return the training rows that are second or further copies, ascending: int64."""
    repeated = pa.array([name for name, tally in sources.items() if tally.num_repeats], pa.string())
    if not len(repeated):
        return np.zeros(0, np.int64)
    keys, rows, start = bytearray(), [np.zeros(0, np.int64)], 0
    for batch in index_rows(folder, "train"):
        is_looked_at = pc.is_in(_known(batch, sources), value_set=repeated)  # type: ignore
        found = batch.select(["hash", "location"]).filter(is_looked_at)
        for digest, location in zip(*found.to_pydict().values(), strict=True):
            keys += xxhash.xxh3_128_digest(digest + location.encode())
        rows.append(start + np.flatnonzero(is_looked_at.to_numpy(zero_copy_only=False)))
        start += batch.num_rows
    high, low = np.frombuffer(keys, "<u8").reshape(-1, 2).T
    order = np.lexsort((low, high))
    is_copy = (np.diff(high[order]) == 0) & (np.diff(low[order]) == 0)
    return np.sort(np.concatenate(rows)[order[1:][is_copy]])


def license_sections(licenses: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return the report's section on licences; nothing if no record named one."""
    if not any(entry["license"] for entry in licenses):
        return []
    totals: dict[tuple[str, str], list[int]] = {}
    for entry in licenses:
        _add(totals, (entry["license"], ""), [entry[name] for name in _COUNTS])
    by_size = sorted(totals.items(), key=lambda item: (-item[1][1], item[0]))
    rows = [
        [name or "none named", f"{num:,}", format_bytes(num_bytes), f"{num_tokens:,}"]
        for (name, _), (num, num_bytes, num_tokens) in by_size[:_MAX_SHOWN]
    ]
    text = (
        "What the records say of themselves; copies that weights ask for do not count. "
        "manifest.json has the same for each source."
    )
    columns = ("licence", "documents", "text", "tokens")
    return [Section("Licences", text, Table(columns, rows))]


def _fold(counts: dict[tuple[str, str], list[int]]) -> dict[tuple[str, str], list[int]]:
    """Return the largest entries, and the others summed by licence."""
    if len(counts) <= MAX_SOURCES:
        return counts
    by_size = sorted(counts.items(), key=lambda item: (-item[1][1], item[0]))
    folded = dict(by_size[:MAX_SOURCES])
    for (_, name), values in by_size[MAX_SOURCES:]:
        _add(folded, (OTHER_SOURCES, name), values)
    return folded


def _add(counts: dict[tuple[str, str], list[int]], key: tuple[str, str], more: list[int]) -> None:
    known = counts.get(key, [0] * len(more))
    counts[key] = [a + b for a, b in zip(known, more, strict=True)]
