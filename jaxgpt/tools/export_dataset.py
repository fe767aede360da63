"""`jaxgpt export-dataset --dataset DIR --format FORMAT --output DIR`: documents as files
of text that other programs read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.command_line import parse_options, require_at_least
from jaxgpt.corpus.dataset.export import DEFAULT_FILE_BYTES, Format, export_dataset
from jaxgpt.data.shards import TokenDataset
from jaxgpt.reports.console import format_count


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write the documents of a dataset as Parquet or ArrayRecord files, with source and licence."""

    dataset: Path
    """Dataset folder."""
    format: Format
    """Output format. parquet: one row per document; arrayrecord: one JSON object per document."""
    output: Path
    """Output folder, which must be empty or not exist."""
    max_file_bytes: int = DEFAULT_FILE_BYTES
    """Most bytes of text in one file; a longer document has a file of its own."""
    json: bool = False
    """Print the counts as JSON."""


def main(argv: Sequence[str]) -> None:
    """Parse, write, count."""
    options = parse_options(ExportOptions, argv, prog="jaxgpt export-dataset")
    require_at_least(options, max_file_bytes=1)
    dataset = TokenDataset.open(options.dataset)
    counts = export_dataset(dataset, options.output, options.format, options.max_file_bytes)
    if options.json:
        print(json.dumps({"output": str(options.output), "splits": counts}))
        return
    for split, count in counts.items():
        print(
            f"{split}: {format_count(count['num_documents'], 'document')}, "
            f"{format_count(count['num_bytes'], 'byte')} of text, "
            f"{format_count(count['num_files'], 'file')}"
        )
    print(f"exported: {options.output}")
