"""What of a dataset is under which licence, by source: documents, bytes and tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from jaxgpt.corpus.document_index import index_rows
from jaxgpt.corpus.tally import MAX_SOURCES, OTHER_SOURCES
from jaxgpt.report_page import Section, Table, format_bytes

_COUNTS = ("num_documents", "num_bytes", "num_tokens")
_MAX_SHOWN = 50


def list_licenses(folder: Path, is_divided: bool) -> list[dict[str, Any]]:
    """Sum up the indexes of both splits in `folder`.

    Args:
        is_divided: whether every document has a share in either split, and counts once.

    Returns:
        JSON objects: source, license ("" where a record named none), num_documents, num_bytes,
        num_tokens; sorted by source and licence. Beyond MAX_SOURCES the ones with least text are
        counted together, by licence.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    for split in ("train", "val"):
        is_counted = split == "train" or not is_divided
        for batch in index_rows(folder, split):
            grouped = pa.Table.from_batches([batch]).group_by(["source", "license"])
            sums = grouped.aggregate(
                [("num_bytes", "count"), ("num_bytes", "sum"), ("num_tokens", "sum")]
            ).select(["source", "license", "num_bytes_count", "num_bytes_sum", "num_tokens_sum"])
            for source, name, num_documents, *sizes in zip(*sums.to_pydict().values(), strict=True):
                _add(counts, (source, name), [num_documents if is_counted else 0, *sizes])
    return [
        {"source": source, "license": name, **dict(zip(_COUNTS, values, strict=True))}
        for (source, name), values in sorted(_fold(counts).items())
    ]


def license_sections(licenses: Sequence[Mapping[str, Any]]) -> list[Section]:
    """For the report: what is under which licence; nothing if no record named one."""
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
    text = "What the records say of themselves. manifest.json has the same for each source."
    columns = ("licence", "documents", "text", "tokens")
    return [Section("Licences", text, Table(columns, rows))]


def _fold(counts: dict[tuple[str, str], list[int]]) -> dict[tuple[str, str], list[int]]:
    """The largest, and the others by licence."""
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
