"""`jaxgpt build-dataset --input PATH... --output DIR`: raw text -> a dataset folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxgpt.command_line import find_option, parse_options
from jaxgpt.config import load_config, replace
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.filters.config import with_profile_option
from jaxgpt.reports.console import format_count
from jaxgpt.reports.units import format_bytes

DEFAULT_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "dataset.py"


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Build a dataset of text. Run the same command again to continue one that was interrupted."""

    input: tuple[str, ...]
    """Files, folders (with all below), globs and fsspec URLs: .txt .md .rst .html .py and other
    text, .jsonl .json .parquet .csv .tsv; each plain or .gz .zst .bz2 .xz."""
    output: Path
    """Dataset folder to write, made if it does not exist."""
    config: str | None = None
    """Config file (.py or .json); default: configs/dataset.py."""
    json: bool = False
    """Print the manifest's counts and splits as JSON."""
    settings: Annotated[DatasetConfig, tyro.conf.arg(name="")] = field(kw_only=True)


def main(argv: Sequence[str]) -> None:
    """Parse, build, say what came out."""
    config = load_config(find_option(argv, "--config") or DEFAULT_CONFIG, DatasetConfig)
    config = replace(config, filters=with_profile_option(config.filters, argv))
    default = BuildOptions(
        input=tyro.MISSING,  # type: ignore[arg-type]
        output=tyro.MISSING,  # type: ignore[arg-type]
        settings=config,
    )
    options = parse_options(BuildOptions, argv, prog="jaxgpt build-dataset", default=default)
    manifest = build_dataset(options.input, options.output, options.settings)
    if options.json:
        print(json.dumps(summary(manifest, options.output)))
    else:
        print_summary(manifest, options.output)


def summary(manifest: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """Return the part of a manifest that a script wants."""
    splits = {
        name: {key: value for key, value in split.items() if key != "shards"}
        for name, split in manifest["splits"].items()
    }
    kept = {key: manifest[key] for key in ("fingerprint", "tokenizer", "counts")}
    return {"output": str(output), **kept, "splits": splits}


def print_summary(manifest: Mapping[str, Any], output: Path) -> None:
    """Print the same for people."""
    counts, num_bytes = manifest["counts"], manifest["bytes"]
    print(
        f"documents: {counts['read']:,} read ({format_bytes(num_bytes['read'])} of text), "
        f"{counts['kept']:,} kept ({format_bytes(num_bytes['kept'])})"
    )
    for reason, count in counts["dropped"].items():
        size = format_bytes(num_bytes["dropped"].get(reason, 0))
        print(f"  dropped, {reason}: {count:,} ({size})")
    for name, split in manifest["splits"].items():
        num_documents = format_count(split["num_documents"], "document")
        print(f"{name}: {num_documents}, {format_count(split['num_tokens'], 'token')}")
    tokenizer = manifest["tokenizer"]
    print(f"tokenizer: {tokenizer['type']}, {tokenizer['vocab_size']:,} ids")
    print(f"dataset: {output} ({manifest['fingerprint'][:12]}); see {output / 'report.html'}")
