"""`report.html` and `report.md` of a dataset: documents read, dropped and kept, with samples.

Both are functions of the build's account alone: equal builds have equal reports. The page is one
file that needs nothing from elsewhere.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.corpus.report.licenses import license_sections
from jaxgpt.corpus.report.measures import measure_sections
from jaxgpt.corpus.report.removals import (
    benchmark_sections,
    dropped_by_source,
    edit_sections,
    near_duplicate_sections,
)
from jaxgpt.corpus.report.stages import MAX_SOURCES, stage_sections
from jaxgpt.data.manifest import Shard
from jaxgpt.reports.console import format_count
from jaxgpt.reports.page import Section, Table, to_html, to_markdown
from jaxgpt.reports.plots import bar_chart
from jaxgpt.reports.units import format_bytes
from jaxgpt.storage.durable import write_atomically

HTML_NAME = "report.html"
MARKDOWN_NAME = "report.md"

# What the reasons mean, for people.
REASONS = {
    "malformed_json": "not valid JSON",
    "malformed_csv": "a row with a stray quote, or with more or fewer fields than the first row",
    "not_an_object": "JSON, but no object with keys",
    "no_text": "a record without text",
    "text_not_a_string": "a record whose text is no string",
    "record_too_long": "longer than sources.max_record_bytes",
    "truncated_record": "cut in two by the end of a damaged file",
    "unreadable_file": "a file of which nothing could be read",
    "invalid_utf8": "too many characters that were not valid UTF-8",
    "empty": "nothing but whitespace",
    "no_text_in_page": "a web page without text",
    "page_too_complex": "a web page, paragraph or tag with too many elements or attributes",
    "empty_after_edits": "nothing was left of it after edits",
    "exact_duplicate": "the same text as another document",
    "near_duplicate": "nearly the same words as another document",
    "benchmark_overlap": "shares a run of words with an evaluation file",
    "mixture_weight": "its source has a weight below 1",
    "takedown": "taken out on request, or the same text as one that was",
}
REPAIRS = {
    "invalid_bytes": "bytes that are not UTF-8 became U+FFFD",
    "lone_surrogates": "halves of UTF-16 pairs became U+FFFD",
    "carriage_returns": "line ends CRLF and CR became newlines",
    "byte_order_marks": "byte order marks were removed",
    "nul": "NUL characters were removed",
    "control_characters": "control characters were removed",
    "not_nfc": "characters were composed (NFC)",
}


def explain(reason: str) -> str:
    """Return the meaning of a reason; "" for a rule of a filter, whose name explains it."""
    return REASONS.get(reason, "")


def write_reports(
    output: Path,
    name: str,
    about: Mapping[str, Any],
    shards: Mapping[str, Sequence[Shard]],
    tokenizer: Mapping[str, Any],
    samples: Mapping[str, Sequence[Mapping[str, str]]],
    families: Sequence[Mapping[str, Any]],
    extremes: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Write both reports into `output`; arguments as in `corpus/finalize.py`."""
    headline = _headline(about, shards, tokenizer)
    sections = _sections(about, shards, samples, families, extremes)
    title = f"Dataset {name}"
    write_atomically(output / HTML_NAME, to_html(title, headline, sections))
    write_atomically(output / MARKDOWN_NAME, to_markdown(title, headline, sections))


def _headline(
    about: Mapping[str, Any], shards: Mapping[str, Sequence[Shard]], tokenizer: Mapping[str, Any]
) -> dict[str, str]:
    counts = about["counts"]
    num_tokens = sum(shard.num_tokens for split in shards.values() for shard in split)
    num_bytes = sum(shard.num_bytes for split in shards.values() for shard in split)
    return {
        "documents kept": f"{counts['kept']:,}",
        "documents read": f"{counts['read']:,}",
        "of text": format_bytes(num_bytes),
        "tokens": f"{num_tokens:,}",
        "bytes per token": f"{num_bytes / max(num_tokens, 1):.2f}",
        f"ids, {tokenizer['type']}": f"{tokenizer['vocab_size']:,}",
    }


def _sections(
    about: Mapping[str, Any],
    shards: Mapping[str, Sequence[Shard]],
    samples: Mapping[str, Sequence[Mapping[str, str]]],
    families: Sequence[Mapping[str, Any]],
    extremes: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[Section]:
    return [
        _account(about["counts"], about["bytes"]),
        *stage_sections(about["sources"]),
        _splits(shards, about["split_note"]),
        *_sources(about["sources"]),
        *license_sections(about["licenses"]),
        *dropped_by_source(about["sources"]),
        *near_duplicate_sections(about["near_duplicates"], families),
        *edit_sections(about["edits"], about["bytes"]["edited"]),
        *benchmark_sections(about["benchmarks"]),
        *measure_sections(about["measures"], extremes),
        *_repairs(about["repaired"]),
        _files(about["inputs"]),
        *_samples(samples),
        Section("Settings", preformatted=json.dumps(about["settings"], indent=2)),
    ]


def _account(counts: Mapping[str, Any], num_bytes: Mapping[str, Any]) -> Section:
    read, dropped = counts["read"], counts["dropped"]
    rows = [["read", f"{read:,}", "100%", format_bytes(num_bytes["read"]), ""]]
    rows.append(["kept", *_share(counts["kept"], read), format_bytes(num_bytes["kept"]), ""])
    rows += [
        [
            f"dropped: {reason}",
            *_share(count, read),
            format_bytes(num_bytes["dropped"].get(reason, 0)),
            explain(reason),
        ]
        for reason, count in sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    ]
    columns = ("documents", "number", "share", "text", "meaning")
    table = Table(columns, rows, frozenset({0, 4}))
    text = (
        "Every document that was read is kept or dropped for one reason: "
        f"{read:,} = {counts['kept']:,} + {sum(dropped.values()):,}. Each dropped one is a line "
        "of removed.jsonl.zst."
    )
    bars = {"kept": counts["kept"], **{row[0].removeprefix("dropped: "): 0 for row in rows[2:]}}
    figure = bar_chart(bars | dropped, x_label="documents", highlighted="kept") if dropped else ""
    return Section("What came in and what went out", text, table, figure)


def _splits(shards: Mapping[str, Sequence[Shard]], note: str) -> Section:
    rows = [
        [
            name,
            f"{sum(shard.num_documents for shard in split):,}",
            format_bytes(sum(shard.num_bytes for shard in split)),
            f"{sum(shard.num_tokens for shard in split):,}",
            f"{len(split):,}",
        ]
        for name, split in shards.items()
    ]
    return Section(
        "Splits",
        f"Note: {note}." if note else "",
        Table(("split", "documents", "text", "tokens", "shards"), rows),
    )


def _sources(sources: Sequence[Mapping[str, Any]]) -> list[Section]:
    largest = sorted(sources, key=lambda source: (-source["num_bytes"], source["name"]))
    shown = largest[:MAX_SOURCES]
    rows = [
        [
            source["name"],
            ", ".join(source["licenses"]) or "-",
            f"{source['read']:,}",
            f"{source['kept']:,}",
            format_bytes(source["num_bytes"]),
            f"{source['num_tokens']:,}",
        ]
        for source in shown
    ]
    columns = ("source", "licence", "read", "kept", "text", "tokens")
    text = f"{format_count(len(sources), 'source')}."
    if len(sources) > len(shown):
        number = format_count(len(sources), "source")
        text = f"The {len(shown)} largest of {number}; manifest.json has all."
    table = Section("Sources", text, Table(columns, rows, frozenset({0, 1})))
    ratios = {
        _shorten(source["name"]): source["num_bytes"] / source["num_tokens"]
        for source in shown[:20]
        if source["num_tokens"]
    }
    figure = Section(
        "How well the tokenizer fits",
        "Bytes of text that one token stands for, by source; more is better.",
        figure=bar_chart(ratios, x_label="bytes per token") if ratios else "",
    )
    return [table, figure]


def _repairs(repaired: Mapping[str, Mapping[str, int]]) -> list[Section]:
    if not repaired:
        return []
    rows = [
        [REPAIRS.get(kind, kind), f"{counts['documents']:,}", f"{counts['places']:,}"]
        for kind, counts in repaired.items()
    ]
    return [Section("Repairs", "", Table(("what", "documents", "places"), rows))]


def _files(inputs: Mapping[str, Any]) -> Section:
    rows = [["read", f"{inputs['num_files']:,}"]]
    rows += [[f"of these {name}", f"{count:,}"] for name, count in inputs["problems"].items()]
    rows += [[f"passed over: {name}", f"{count:,}"] for name, count in inputs["skipped"].items()]
    text = f"{format_bytes(inputs['num_bytes'])} as stored. inputs.jsonl.zst lists every file."
    return Section("Files", text, Table(("files", "number"), rows))


def _samples(samples: Mapping[str, Sequence[Mapping[str, str]]]) -> list[Section]:
    if not samples:
        return []
    return [Section("Samples of what was dropped", samples=dict(sorted(samples.items())))]


def _share(count: int, total: int) -> tuple[str, str]:
    return f"{count:,}", f"{count / max(total, 1):.2%}"


def _shorten(name: str, length: int = 32) -> str:
    """Return the end of a long name, where paths differ."""
    return name if len(name) <= length else f"...{name[-length:]}"
