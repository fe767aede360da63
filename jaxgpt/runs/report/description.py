"""Sections of a run report that say what a run is made of: data, configuration, environment."""

import json
from collections.abc import Mapping
from typing import Any

from jaxgpt.reports.page import Section, Table
from jaxgpt.reports.units import format_bytes
from jaxgpt.runs.report.records import RunFolder

# Sections of the config that say where something runs or is written rather than what is trained.
_LAST_SECTIONS = ("mesh", "sharding", "runtime", "logging", "checkpoint")


def describe_data(run: RunFolder) -> list[Section]:
    """Describe each dataset: documents read, dropped by reason, and splits."""
    return [_dataset(path, manifest) for path, manifest in run.manifests.items()]


def describe_config(run: RunFolder) -> Section | None:
    """Describe every field of the config, in one small table per section."""
    general: list[list[str]] = []
    tables: dict[str, Table] = {}
    for name, value in run.config.items():
        if isinstance(value, Mapping):
            title = f"{name}: {_class_name(value)}"
            tables[title] = Table(("", ""), _fields(value), frozenset({0, 1}))
        elif name != "type":
            general.append([name, _plain(value)])
    if general:
        tables = {"general": Table(("", ""), general, frozenset({0, 1})), **tables}
    ordered = sorted(tables, key=lambda title: title.partition(":")[0] in _LAST_SECTIONS)
    if not tables:
        return None
    number = sum(len(table.rows) for table in tables.values())
    return Section(
        "Configuration",
        tables={title: tables[title] for title in ordered},
        tables_summary=f"all {number} fields",
    )


def describe_environment(run: RunFolder) -> Section | None:
    """Describe the machine, the software, and the origin of the run."""
    environment = run.environment
    machine = [[name, _plain(value)] for name, value in environment.get("devices", {}).items()]
    versions = {name: environment[name] for name in ("python", "platform") if name in environment}
    versions |= environment.get("packages", {})
    software = [[name, _plain(version)] for name, version in versions.items()]
    git = environment.get("git") or {}
    origin = [[f"git {name}", _plain(value)] for name, value in git.items()]
    for dataset in run.lineage.get("data", {}).get("datasets", ()):
        origin.append(["dataset", _plain(dataset.get("fingerprint"))])
    if "tokenizer" in run.lineage:
        origin.append(["tokenizer", _plain(run.lineage["tokenizer"])])
    tables = {
        name: Table(("", ""), rows, frozenset({0, 1}))
        for name, rows in (("machine", machine), ("origin", origin), ("software", software))
        if rows
    }
    return Section("Environment and origin", tables=tables) if tables else None


def _dataset(path: str, manifest: Mapping[str, Any]) -> Section:
    counts = manifest.get("counts", {})
    rows = [
        [name, f"{counts[name]:,}", _share(counts[name], counts["read"])]
        for name in ("read", "kept")
        if name in counts
    ]
    for reason, number in counts.get("dropped", {}).items():
        rows.append([f"dropped: {reason}", f"{number:,}", _share(number, counts["read"])])
    tables = {"Documents": Table(("", "number", "share"), rows)} if rows else {}
    splits = manifest.get("splits", {})
    tables["Splits"] = Table(
        ("", "documents", "text", "tokens"),
        [
            [
                name,
                f"{split['num_documents']:,}",
                format_bytes(split["num_bytes"]),
                f"{split['num_tokens']:,}",
            ]
            for name, split in splits.items()
        ],
    )
    num_bytes = sum(split["num_bytes"] for split in splits.values())
    num_tokens = sum(split["num_tokens"] for split in splits.values())
    tokenizer = manifest["tokenizer"]
    text = (
        f"{path}: {tokenizer['vocab_size']:,} token ids ({tokenizer['type']}), "
        f"{num_bytes / max(num_tokens, 1):.2f} bytes of text a token. Its own report.html has "
        "sources and samples."
    )
    return Section("Data", text, tables=tables)


def _fields(section: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """Return rows (path, value) of a section; a variant's class stands above its fields."""
    rows: list[list[str]] = []
    for name, value in section.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            rows += [[path, _class_name(value)], *_fields(value, f"{path}.")]
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            for place, item in enumerate(value):
                rows += _fields(item, f"{path}[{place}].")
        elif name != "type":
            rows.append([path, _plain(value)])
    return rows


def _class_name(section: Mapping[str, Any]) -> str:
    return str(section.get("type", "")).rpartition(":")[2]


def _plain(value: Any) -> str:
    """Return a value of the config as a person would write it."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def _share(count: int, total: int) -> str:
    return f"{count / max(total, 1):.2%}"
