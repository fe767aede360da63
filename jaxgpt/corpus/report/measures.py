"""Sections of the report that compare kept and dropped documents."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.reports.console import format_count
from jaxgpt.reports.page import Section, Table
from jaxgpt.reports.plots import stacked_bar_chart

_MAX_LANGUAGES = 15
_OTHERS = "others"


def measure_sections(
    measures: Mapping[str, Any], extremes: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Section]:
    """Return sections on length, language and compression, from `stages.measure`."""
    if not measures or not any(measures["length"].values()):
        return []
    num_documents, num_measured = measures["num_documents"], measures["num_measured"]
    sample = (
        "All documents were measured"
        if num_measured == num_documents
        else f"A sample was measured, {num_measured:,} of "
        f"{format_count(num_documents, 'document')} by content"
    )
    return [
        _section(
            "Length",
            f"{sample}, as they were read. Bytes of text, in steps of powers of two.",
            _in_order(measures["length"], lambda n: f"{_binary(n - 1)} to {_binary(n)}"),
        ),
        _section(
            "Language",
            "By the small words and the script of a document's beginning. Code, tables and lists "
            "are uncertain.",
            _by_size(measures["language"]),
        ),
        _section(
            "Compression",
            "Size of a document's first 4,096 characters when compressed (zstd, level 1), as a "
            "share of their bytes; documents under 256 bytes are left out. Prose lies in the "
            "middle. Text that compresses to very little repeats itself, text that hardly "
            "compresses is no prose: lists of names, encoded data.",
            _in_order(measures["compression"], lambda n: f"{5 * n}% to {5 * n + 5}%"),
        ),
        *_extremes(extremes),
    ]


def _section(title: str, text: str, rows: Sequence[tuple[str, int, int]]) -> Section:
    labels = [label for label, _, _ in rows]
    series = {"kept": [kept for _, kept, _ in rows], "dropped": [gone for _, _, gone in rows]}
    table = Table(
        (title.lower(), "kept", "dropped"),
        [[label, f"{kept:,}", f"{dropped:,}"] for label, kept, dropped in rows],
    )
    figure = stacked_bar_chart(series, labels, x_label="documents")
    return Section(title, text, table, figure, table_is_folded=True)


def _in_order(counts: Mapping[str, Mapping[str, int]], label_of: Any) -> list[tuple[str, int, int]]:
    """Return (label, kept, dropped) of every bin from the first to the last with documents."""
    found = [int(number) for bins in counts.values() for number in bins]
    return [
        (label_of(n), counts["kept"].get(str(n), 0), counts["dropped"].get(str(n), 0))
        for n in (range(min(found), max(found) + 1) if found else ())
    ]


def _by_size(counts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, int, int]]:
    """Return (label, kept, dropped), the most frequent first, rare ones summed."""
    rows = [
        (label, counts["kept"].get(label, 0), counts["dropped"].get(label, 0))
        for label in {*counts["kept"], *counts["dropped"]}
    ]
    rows.sort(key=lambda row: (-row[1] - row[2], row[0]))
    rest = rows[_MAX_LANGUAGES:]
    if not rest:
        return rows
    together = (_OTHERS, sum(row[1] for row in rest), sum(row[2] for row in rest))
    return [*rows[:_MAX_LANGUAGES], together]


def _extremes(extremes: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Section]:
    names = {"best": "compress best", "least": "compress least"}
    samples = {
        names[name]: [
            {
                "location": entry["location"],
                "detail": f"compresses to {entry['share']:.0%}",
                "text": entry["text"],
            }
            for entry in found
        ]
        for name, found in extremes.items()
        if found
    }
    if not samples:
        return []
    text = "Should these be in the dataset? If not, a filter is missing or too mild."
    return [
        Section(
            "Kept documents that compress best and least",
            text,
            samples=samples,
            folded=frozenset(samples),
        )
    ]


def _binary(exponent: int) -> str:
    """Write 2**exponent bytes: 11 -> "2 KiB"."""
    return f"{2 ** (exponent % 10)} {('B', 'KiB', 'MiB', 'GiB')[exponent // 10]}"
