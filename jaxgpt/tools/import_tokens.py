"""`jaxgpt import-tokens --input FILE --format FORMAT --tokenizer PATH --output DIR`: token
files of nanoGPT or Megatron -> a dataset folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.command_line import parse_options
from jaxgpt.corpus.dataset.import_tokens import Format, ImportSettings, import_tokens
from jaxgpt.reports.console import format_count
from jaxgpt.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Make a dataset of a token file that was made with a tokenizer of jaxgpt."""

    input: Path
    """File of token ids, .bin; for megatron, its .idx lies next to it."""
    format: Format
    """Format of the file. nanogpt: ids of 2 bytes (or 4 or 8) and nothing else; megatron: .bin and
    .idx (MMIDIDX)."""
    tokenizer: Path
    """Tokenizer that made the ids: a model file, or a dataset or run folder."""
    output: Path
    """Dataset folder to write, which must be empty or not exist."""
    eos_id: int | None = None
    """Id that ends a document; default: the tokenizer's EOS."""
    val_fraction: float = 0.01
    """Share of the documents that is held out for validation."""
    seed: int = 0
    """Random seed of the order of documents and of the choice of validation documents."""
    source: str | None = None
    """Source name of all documents; default: the path of the file."""
    license: str = ""
    """Licence of all documents."""
    json: bool = False
    """Print counts and splits as JSON."""


def main(argv: Sequence[str]) -> None:
    """Parse, import, say what came out."""
    options = parse_options(ImportOptions, argv, prog="jaxgpt import-tokens")
    settings = ImportSettings(
        format=options.format,
        eos_id=options.eos_id,
        val_fraction=options.val_fraction,
        seed=options.seed,
        source=options.source or str(options.input),
        license=options.license,
    )
    tokenizer = Tokenizer.load(options.tokenizer)
    manifest = import_tokens(options.input, tokenizer, options.output, settings)
    counts, splits = manifest["counts"], manifest["splits"]
    num_padding = manifest["imported"]["num_padding_tokens"]
    if options.json:
        shown = {
            name: {key: value for key, value in split.items() if key != "shards"}
            for name, split in splits.items()
        }
        report = {"output": str(options.output), "fingerprint": manifest["fingerprint"]}
        report["num_padding_tokens"] = num_padding
        print(json.dumps({**report, "counts": counts, "splits": shown}))
        return
    print(f"documents: {counts['read']:,} read, {counts['kept']:,} kept")
    for reason, count in counts["dropped"].items():
        print(f"  dropped, {reason}: {count:,}")
    if num_padding:
        print(f"padding left out: {format_count(num_padding, 'token')}")
    for name, split in splits.items():
        num_documents = format_count(split["num_documents"], "document")
        print(f"{name}: {num_documents}, {format_count(split['num_tokens'], 'token')}")
    if manifest["split_note"]:
        print(manifest["split_note"])
    print(f"dataset: {options.output} ({manifest['fingerprint'][:12]})")
