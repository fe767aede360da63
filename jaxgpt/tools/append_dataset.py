"""`jaxgpt append-dataset --dataset DIR --input PATH...`: more text for a dataset."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from jaxgpt.command_line import find_option, parse_options
from jaxgpt.corpus.append import append_to_dataset
from jaxgpt.corpus.append_settings import recorded_config
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.filters.config import with_profile_option
from jaxgpt.reports.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class AppendOptions:
    """Add text to a finished dataset. Settings are those it was built with, unless given here. Run
    the same command again to continue an append that was interrupted."""

    dataset: Path
    """Dataset folder."""
    input: tuple[str, ...]
    """Files, folders (with all below), globs and fsspec URLs, as for build_dataset.py."""
    json: bool = False
    """Print the counts of what was added and the new fingerprint as JSON."""
    settings: Annotated[DatasetConfig, tyro.conf.arg(name="")] = field(kw_only=True)


def main(argv: Sequence[str]) -> None:
    """Parse, append, say what came in."""
    dataset = find_option(argv, "--dataset")
    config = DatasetConfig() if dataset is None else recorded_config(Path(dataset))
    config = replace(config, filters=with_profile_option(config.filters, argv))
    default = AppendOptions(
        dataset=tyro.MISSING,  # type: ignore[arg-type]
        input=tyro.MISSING,  # type: ignore[arg-type]
        settings=config,
    )
    options = parse_options(AppendOptions, argv, prog="jaxgpt append-dataset", default=default)
    manifest = append_to_dataset(options.input, options.dataset, options.settings)
    added = manifest["history"][-1] if manifest["history"] else {}
    if options.json:
        kept = {key: manifest[key] for key in ("fingerprint", "counts", "history")}
        print(json.dumps({"dataset": str(options.dataset), **kept}))
        return
    counts, num_bytes = manifest["counts"], manifest["bytes"]
    print(
        f"documents: {counts['kept']:,} kept ({format_bytes(num_bytes['kept'])} of text), of "
        f"{counts['read']:,} read ({format_bytes(num_bytes['read'])})"
    )
    if added.get("operation") == "append":
        print(
            f"the last append: {added['read']:,} read{_size(added.get('read_bytes'))}, "
            f"{added['kept']:,} kept{_size(added['num_bytes'])}"
        )
        for reason, count in added["dropped"].items():
            size = _size(added.get("dropped_bytes", {}).get(reason))
            print(f"  dropped, {reason}: {count:,}{size}")
    print(f"dataset: {options.dataset} ({manifest['fingerprint'][:12]})")


def _size(num_bytes: int | None) -> str:
    """Return bytes in parentheses; older versions did not record all of them."""
    return "" if num_bytes is None else f" ({format_bytes(num_bytes)})"
