"""Sections of the report that follow documents and tokens from stage to stage. Tokens of dropped
documents are estimated from their bytes, by the bytes per token of the text kept from their source,
or of all text if the source has none. Every amount is a whole number, so that the report of equal
builds is equal.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.reports.console import format_count
from jaxgpt.reports.page import Section, Table
from jaxgpt.reports.units import format_bytes

MAX_SOURCES = 30
_MAX_FLOWS = 15
# In the order of a build. A filter of the user's own may name a stage that is not among them: it
# judges before near duplicates are looked for.
_BEFORE = ("read", "repair", "html", "exact_duplicates", "url", "language", "quality")
_AFTER = ("near_duplicates", "privacy", "decontamination", "mixture", "takedown")
_ESTIMATED = (
    "Tokens of documents that were dropped are estimated from their bytes, with the bytes per "
    "token of what the source has kept; those of the last column are counted."
)


@dataclasses.dataclass(frozen=True)
class Left:
    """Documents and tokens that are left after a stage."""

    documents: int
    num_bytes: int
    tokens: int


def stage_sections(sources: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return sections on input and output of each stage; `sources` as in the manifest."""
    stages = _stages(sources)
    if not stages:
        return []
    per_byte = (
        sum(source["num_tokens"] for source in sources),
        sum(source["num_bytes"] for source in sources),
    )
    flows = {source["name"]: _flow(source, stages, per_byte) for source in sources}
    total = [_sum([flow[place] for flow in flows.values()]) for place in range(len(stages) + 1)]
    sections = [_of_all(stages, total)]
    if len(sources) > 1:
        sections += _of_each(stages, flows, total)
    return sections


def _stages(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the stages that dropped or edited anything, in order."""
    found = {
        stage for source in sources for stage in (*source["dropped_at"], *source["edited_bytes"])
    }
    own = sorted(found - {*_BEFORE, *_AFTER})
    return [stage for stage in (*_BEFORE, *own, *_AFTER) if stage in found]


def _flow(
    source: Mapping[str, Any], stages: Sequence[str], per_byte: tuple[int, int]
) -> list[Left]:
    """Return what is left of a source: as it was read, and after each stage."""
    if source["num_bytes"]:
        per_byte = source["num_tokens"], source["num_bytes"]
    tokens, of_bytes = per_byte
    documents, num_bytes = source["read"], source["read_bytes"]
    left = []
    for stage in ("", *stages):
        documents -= source["dropped_at"].get(stage, 0)
        num_bytes -= source["dropped_bytes"].get(stage, 0) + source["edited_bytes"].get(stage, 0)
        left.append(Left(documents, num_bytes, num_bytes * tokens // max(of_bytes, 1)))
    return left


def _sum(parts: Sequence[Left]) -> Left:
    return Left(
        sum(part.documents for part in parts),
        sum(part.num_bytes for part in parts),
        sum(part.tokens for part in parts),
    )


def _of_all(stages: Sequence[str], total: Sequence[Left]) -> Section:
    rows = []
    for stage, before, after in zip(stages, total[:-1], total[1:], strict=True):
        rows.append(
            [
                _words(stage),
                f"{before.documents:,}",
                f"{after.documents:,}",
                format_bytes(before.num_bytes),
                format_bytes(after.num_bytes),
                f"{before.tokens:,}",
                f"{after.tokens:,}",
            ]
        )
    columns = ("stage", "documents in", "out", "text in", "out", "tokens in", "out")
    text = f"Stages that dropped or edited nothing are left out. {_ESTIMATED}"
    return Section("Stage by stage", text.replace("column", "row"), Table(columns, rows))


def _of_each(
    stages: Sequence[str], flows: Mapping[str, Sequence[Left]], total: Sequence[Left]
) -> list[Section]:
    largest = sorted(flows.items(), key=lambda flow: (-flow[1][0].num_bytes, flow[0]))
    shown = [("all sources", total), *largest[:_MAX_FLOWS]]
    columns = ("source", "came in", *map(_words, stages))
    left = "What is left of what was read, after each stage."
    if len(flows) > _MAX_FLOWS:
        number = format_count(len(flows), "source")
        left += f" The {_MAX_FLOWS} largest of {number}; manifest.json has all."
    documents = [[name, *(f"{each.documents:,}" for each in flow)] for name, flow in shown]
    tokens = [[name, *(f"{each.tokens:,}" for each in flow)] for name, flow in shown]
    return [
        Section(
            "Documents of each source, stage by stage",
            left,
            Table(columns, documents),
        ),
        Section(
            "Tokens of each source, stage by stage",
            f"{left} {_ESTIMATED}",
            Table(columns, tokens),
        ),
    ]


def _words(stage: str) -> str:
    return stage.replace("_", " ")
