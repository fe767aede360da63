"""Sections of the report on documents removed after the filters, and on edits."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.corpus.report.stages import MAX_SOURCES
from jaxgpt.reports.console import format_count
from jaxgpt.reports.page import Section, Table
from jaxgpt.reports.units import format_bytes

_MAX_REASONS = 5


def near_duplicate_sections(
    counts: Mapping[str, int], examples: Sequence[Mapping[str, Any]]
) -> list[Section]:
    """Return sections on comparisons, and on families of a kept document and removed ones."""
    if not counts:
        return []
    rows = [
        ["documents that share a band with another", f"{counts['num_candidates']:,}"],
        ["clusters of these", f"{counts['num_clusters']:,}"],
        ["documents in the largest cluster", f"{counts['largest_cluster']:,}"],
        ["pairs that were compared", f"{counts['num_compared']:,}"],
        # Datasets of older versions did not count them.
        [
            "of these, with similar words but other symbols or case",
            f"{counts.get('num_differing', 0):,}",
        ],
        ["pairs left out in crowded bands", f"{counts['num_cut']:,}"],
    ]
    text = (
        "Documents that share a band of their MinHash signatures are candidates. One is removed "
        "only if its words, compared with those of a document that is kept, are similar enough, "
        "and, in code and short texts, its case and symbols agree; removed.jsonl.zst names that "
        "document and the similarity of the words."
    )
    families = {
        f"{family['num_removed']:,} removed for {family['kept']['location']}": [
            _sample(family["kept"], "kept"),
            *(
                _sample(member, f"removed: similarity {member['similarity']:.3f}")
                for member in family["removed"]
            ),
        ]
        for family in examples
    }
    section = Section("Near duplicates", text, Table(("what", "number"), rows))
    if not families:
        return [section]
    shown = Section(
        "Families of near duplicates",
        "The largest, and some drawn at random; of each the kept document and the least similar of "
        "those that were removed for it. Words of their beginnings that differ are marked.",
        compared=families,
    )
    return [section, shown]


def benchmark_sections(benchmarks: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return the section on evaluation files that the corpus contains."""
    if not benchmarks:
        return []
    rows = [
        [
            entry["file"],
            f"{entry['num_items']:,}",
            f"{entry['num_checkable_items']:,}",
            f"{entry['num_items_found']:,}",
            f"{entry['num_documents_hit']:,}",
        ]
        for entry in benchmarks
    ]
    columns = ("file", "items", "long enough to check", "found in the corpus", "documents hit")
    text = "Evaluation texts that share a run of words with a document."
    return [Section("Overlap with evaluation files", text, Table(columns, rows))]


def edit_sections(
    edits: Mapping[str, Mapping[str, Any]], num_bytes: Mapping[str, int]
) -> list[Section]:
    """Return the section on edits of documents that stayed."""
    if not edits:
        return []
    rows = []
    for stage, edit in edits.items():
        rows.append([stage, format_count(edit["documents"], "document"), _signed(num_bytes[stage])])
        rows += [
            ["", f"{count:,} {kind.replace('_', ' ')}", ""]
            for kind, count in edit["counts"].items()
        ]
    return [Section("Edits", "", Table(("stage", "what", "text"), rows, frozenset({0, 1})))]


def dropped_by_source(sources: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return, for each reason, the number of documents that each source has lost."""
    losing = [source for source in sources if source["dropped"]]
    if not losing or len(sources) < 2:
        return []
    by_loss = sorted(losing, key=lambda source: (source["kept"] - source["read"], source["name"]))
    rows = [
        [
            source["name"],
            f"{source['read']:,}",
            f"{1 - source['kept'] / max(source['read'], 1):.1%}",
            format_bytes(sum(source["dropped_bytes"].values())),
            _by_size(source["dropped"]),
        ]
        for source in by_loss[:MAX_SOURCES]
    ]
    table = Table(("source", "read", "lost", "text lost", "to what"), rows, frozenset({0, 4}))
    text = "Sources that lost documents, and to what; manifest.json has all."
    return [Section("What was dropped, by source", text, table)]


def _by_size(dropped: Mapping[str, int]) -> str:
    """Return the most frequent reasons and their numbers."""
    reasons = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{reason} {count:,}" for reason, count in reasons[:_MAX_REASONS]]
    rest = [count for _, count in reasons[_MAX_REASONS:]]
    return ", ".join([*shown, *([f"{len(rest)} others {sum(rest):,}"] if rest else [])])


def _sample(member: Mapping[str, Any], detail: str) -> dict[str, str]:
    return {"location": member["location"], "detail": detail, "text": member["text"]}


def _signed(num_bytes: int) -> str:
    sign = "-" if num_bytes > 0 else "+"
    return f"{sign}{format_bytes(abs(num_bytes))}"
