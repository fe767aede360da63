"""`jaxgpt train-tokenizer --input PATH... --output DIR`: text -> a tokenizer, measured."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxgpt.command_line import parse_options
from jaxgpt.corpus.documents.document import Document
from jaxgpt.corpus.iterate import read_documents
from jaxgpt.corpus.readers.sources import SourcesConfig, find_inputs
from jaxgpt.errors import UsageError
from jaxgpt.tokenizer.tokenizer import FILE_NAME, Tokenizer
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer

# Compression is measured on the beginning of each source, for the first sources.
EXCERPT_CHARACTERS = 2**18
MAX_SOURCES = 50
NUM_LONGEST = 10


@dataclass(frozen=True, kw_only=True)
class TrainTokenizerOptions:
    """Train a tokenizer. tools/build_dataset.py does so itself; this is to try and to compare."""

    input: tuple[str, ...]
    """Files, folders (with all below), globs and fsspec URLs, as for tools/build_dataset.py."""
    output: Path
    """Output folder for tokenizer.model, made if it does not exist."""
    json: bool = False
    """Print the report as JSON."""
    sources: SourcesConfig = field(default_factory=SourcesConfig)
    settings: Annotated[TokenizerConfig, tyro.conf.arg(name="")] = field(
        default_factory=TokenizerConfig
    )


def main(argv: Sequence[str]) -> None:
    """Parse, train, measure."""
    options = parse_options(TrainTokenizerOptions, argv, prog="jaxgpt train-tokenizer")
    if (options.output / FILE_NAME).exists():
        raise UsageError(
            f"{options.output / FILE_NAME} exists, and data may have been made with it; choose "
            f"another --output, or remove it"
        )
    inputs = find_inputs(options.input, options.output, options.sources.exclude)
    excerpts: dict[str, list[str]] = {}
    documents = read_documents(inputs, options.sources)
    start = time.perf_counter()
    tokenizer = train_tokenizer(_texts(documents, excerpts), options.settings)
    seconds = time.perf_counter() - start
    tokenizer.save(options.output)
    report = make_report(tokenizer, excerpts) | {"seconds": round(seconds, 1)}
    if options.json:
        print(json.dumps({"output": str(options.output), **report}))
    else:
        print_report(report, options.output)


def _texts(documents: Iterable[Document], excerpts: dict[str, list[str]]) -> Iterator[str]:
    """Yield the texts of `documents`; the beginning of each source is put into `excerpts`."""
    for document in documents:
        if len(excerpts) < MAX_SOURCES or document.source in excerpts:
            excerpt = excerpts.setdefault(document.source, [])
            room = EXCERPT_CHARACTERS - sum(map(len, excerpt))
            if room > 0:
                excerpt.append(document.text[:room])
        yield document.text


def make_report(tokenizer: Tokenizer, excerpts: dict[str, list[str]]) -> dict[str, Any]:
    """Return size, compression by source, and the longest pieces of a tokenizer."""
    bytes_per_token = {}
    for source, texts in sorted(excerpts.items()):
        num_tokens = sum(map(len, tokenizer.encode_batch(texts)))
        num_bytes = sum(len(text.encode()) for text in texts)
        bytes_per_token[source] = round(num_bytes / max(num_tokens, 1), 3)
    longest = tokenizer.bytes_per_token.argsort(kind="stable")[::-1][:NUM_LONGEST]
    return {
        "tokenizer": tokenizer.describe(),
        "bytes_per_token": bytes_per_token,
        "longest_pieces": [tokenizer.decode([id]) for id in longest.tolist()],
    }


def print_report(report: dict[str, Any], output: Path) -> None:
    """Print the same for people."""
    tokenizer = report["tokenizer"]
    print(f"tokenizer: {tokenizer['type']}, {tokenizer['vocab_size']:,} ids, in {output}")
    print(f"fingerprint: {tokenizer['sha256']}")
    print(f"trained in {report['seconds']:.1f} s")
    print("bytes per token, on the beginning of each source:")
    for source, value in report["bytes_per_token"].items():
        print(f"  {value:6.3f}  {source}")
    print("longest pieces:")
    for piece in report["longest_pieces"]:
        print(f"  {piece!r}")
