"""`jaxgpt merge-shards --dataset DIR`: many small shards of a dataset become few full ones."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.command_line import parse_options
from jaxgpt.corpus.merge import merge_shards
from jaxgpt.reports.console import format_count


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Merge the small shards that appends have left; documents and their order stay."""

    dataset: Path
    """Dataset folder."""
    json: bool = False
    """Print JSON."""


def main(argv: Sequence[str]) -> None:
    """Parse, merge, say how many shards there are."""
    options = parse_options(MergeOptions, argv, prog="jaxgpt merge-shards")
    manifest = merge_shards(options.dataset)
    num_shards = {name: len(split["shards"]) for name, split in manifest["splits"].items()}
    if options.json:
        report = {"dataset": str(options.dataset), "fingerprint": manifest["fingerprint"]}
        print(json.dumps({**report, "num_shards": num_shards}))
        return
    for name, num in num_shards.items():
        print(f"{name}: {format_count(num, 'shard')}")
    print(f"dataset: {options.dataset} ({manifest['fingerprint'][:12]})")
