"""`jaxgpt takedown --dataset DIR --id ID...`: take documents out of a dataset."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.command_line import parse_options
from jaxgpt.corpus.documents.document import valid_name
from jaxgpt.corpus.takedown.takedown import Takedown, take_down
from jaxgpt.errors import UsageError
from jaxgpt.reports.console import format_count


@dataclass(frozen=True, kw_only=True)
class TakedownOptions:
    """Take documents out of a finished dataset: those of a source, with an id, or from a place in
    the input. No text of them is left in the dataset folder."""

    dataset: Path
    """Dataset folder."""
    source: tuple[str, ...] = ()
    """Sources whose documents are all taken down."""
    id: tuple[str, ...] = ()
    """Ids of documents to take down."""
    location: tuple[str, ...] = ()
    """Places in the input, PATH:LINE, of documents to take down."""
    id_file: Path | None = None
    """File with further ids, one per line."""
    location_file: Path | None = None
    """File with further places in the input, one per line."""
    note: str = ""
    """Note for the manifest, such as the date and number of a request."""
    ignore_unknown: bool = False
    """Ignore names that the dataset does not have, instead of ending with an error."""
    with_kept: bool = False
    """Also take down a kept document if a named one was removed as its duplicate."""
    json: bool = False
    """Print JSON."""


def main(argv: Sequence[str]) -> None:
    """Parse, take down, say what went."""
    options = parse_options(TakedownOptions, argv, prog="jaxgpt takedown")
    takedown = Takedown(
        sources=tuple(map(valid_name, options.source)),
        ids=tuple(map(valid_name, (*options.id, *lines_of(options.id_file)))),
        locations=tuple(map(valid_name, (*options.location, *lines_of(options.location_file)))),
        note=options.note,
        ignore_unknown=options.ignore_unknown,
        with_kept=options.with_kept,
    )
    manifest = take_down(options.dataset, takedown)
    if options.json:
        kept = {key: manifest[key] for key in ("fingerprint", "counts", "history")}
        print(json.dumps({"dataset": str(options.dataset), **kept}))
        return
    taken = [entry for entry in manifest["history"] if entry["operation"] == "takedown"]
    for entry in taken[-1:]:
        print(
            f"the last takedown: {format_count(entry['num_documents'], 'document')}, "
            f"{format_count(entry['num_tokens'], 'token')}; removed before, and kept out: "
            f"{format_count(entry['num_copies_that_stay_out'], 'copy')}"
        )
        if num_before := entry.get("num_removed_before", 0):
            print(f"of the documents that it named, {num_before:,} had been removed before")
    print(
        f"dataset: {options.dataset} ({manifest['fingerprint'][:12]}), "
        f"{format_count(manifest['counts']['kept'], 'document')}"
    )


def lines_of(path: Path | None) -> list[str]:
    """Return the lines of a file that are not empty; names of files may be any bytes."""
    if path is None:
        return []
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        return [line for line in text.split("\n") if line]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
