"""`jaxgpt inspect-dataset --dataset DIR --id ID`: what became of a document, and why."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgpt.command_line import parse_options, require_at_least
from jaxgpt.corpus.dataset.inspect import Selection, inspect
from jaxgpt.corpus.documents.document import valid_name
from jaxgpt.data.shards import TokenDataset
from jaxgpt.reports.console import format_count

_SHOWN_APART = ("status", "id", "location", "stage", "reason", "kept", "kept_was_removed", "hash")


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Show documents of a dataset: where they are and what they say, or why they were dropped."""

    dataset: Path
    """Dataset folder."""
    id: str | None = None
    """Id of the documents to show, kept or dropped."""
    location: str | None = None
    """Place in the input, PATH:LINE, of the documents to show, kept or dropped."""
    source: str | None = None
    """Source of the kept documents to show."""
    reason: str | None = None
    """Reason of the dropped documents to show."""
    random: int | None = None
    """Number of documents to draw, from the kept ones or those that --source or --reason choose."""
    seed: int = 0
    """Random seed of the draw."""
    max_documents: int = 10
    """Most documents to show without --random: the first ones."""
    similar: int = 0
    """Number of most similar documents to name with each kept one; reads all text."""
    full: bool = False
    """Show whole texts."""
    json: bool = False
    """Print JSON."""


def main(argv: Sequence[str]) -> None:
    """Parse, look, show."""
    options = parse_options(InspectOptions, argv, prog="jaxgpt inspect-dataset")
    require_at_least(options, random=1, max_documents=1, similar=0)
    selection = Selection(
        id=options.id and valid_name(options.id),
        location=options.location and valid_name(options.location),
        source=options.source and valid_name(options.source),
        reason=options.reason,
        num_random=options.random,
        seed=options.seed,
        max_documents=options.max_documents,
    )
    dataset = TokenDataset.open(options.dataset)
    found = inspect(dataset, selection, options.full, options.similar)
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print_documents(found)


def print_documents(found: dict[str, Any]) -> None:
    """Print the same for people."""
    for document in found["documents"]:
        if document["status"] == "kept":
            print_kept(document)
            print_removed_for_it(document)
        else:
            print_removed(document)
        print()
    print(f"{len(found['documents'])} of {format_count(found['num_found'], 'document')} shown")


def print_kept(document: dict[str, Any], title: str = "kept", indent: str = "") -> None:
    """Print where a document is, where it came from, and its text."""
    last = document["first_token"] + document["num_tokens"] - 1
    print(f"{indent}{title}: {document['id']}")
    size = format_count(document["num_bytes"], "byte")
    print(
        f"{indent}  {document['split']}, document {document['number']:,}, tokens "
        f"{document['first_token']:,} to {last:,}, {size} of text"
    )
    for name in ("location", "source", "license", "url"):
        if document[name]:
            print(f"{indent}  {name}: {document[name]}")
    if control_ids := document.get("control_ids"):
        counts = ", ".join(f"{count:,} x {name}" for name, count in control_ids.items())
        print(f"{indent}  control ids inside, which are no text: {counts}")
    for line in document["text"].split("\n"):
        print(f"{indent}  | {line}")


def print_removed_for_it(document: dict[str, Any]) -> None:
    """Print the documents that were removed because this one stays."""
    if document["num_removed_for_it"]:
        print(f"  removed in favour of it: {document['num_removed_for_it']:,}")
    for entry in document["removed_for_it"]:
        similarity = f", similarity {entry['similarity']:.3f}" if "similarity" in entry else ""
        print(f"    {entry['id']} ({entry['location']}): {entry['reason']}{similarity}")
    for entry in document.get("similar", ()):
        name = f"{entry['id']} ({entry['location']})"
        print(f"  kept too, in {entry['split']}, similarity {entry['similarity']:.3f}: {name}")


def print_removed(document: dict[str, Any]) -> None:
    """Print why a document was dropped, and what was kept instead."""
    print(f"removed: {document['id']}")
    print(f"  location: {document['location']}")
    print(f"  reason: {document['reason']} (stage {document['stage']})")
    for name, value in document.items():
        if name not in _SHOWN_APART:
            print(f"  {name}: {value}")
    for entry in document["kept_was_removed"]:
        print(
            f"  kept instead, and removed later: {entry['id']} ({entry['location']}): "
            f"{entry['reason']} (stage {entry['stage']})"
        )
    for kept in document["kept"]:
        print_kept(kept, title="kept instead", indent="  ")
    if document["kept_was_removed"] and not document["kept"]:
        print("  no document is kept for it")
