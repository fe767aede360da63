"""`jaxgpt import-huggingface --input DIR --output RUN`: published weights as a run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.command_line import parse_options, require_at_least
from jaxgpt.interchange.import_run import import_huggingface


@dataclass(frozen=True, kw_only=True)
class ImportHuggingfaceOptions:
    """Make a run of a Hugging Face folder: GPT-2, Llama, Mistral, Qwen 2 and 3, Gemma 2."""

    input: Path
    """Folder with config.json, safetensors files and tokenizer.json."""
    output: Path
    """New run folder, which must be empty or not exist."""
    sequence_length: int | None = None
    """Longest rows in tokens; None: the longest context that config.json names."""
    chat_tokens: bool = False
    """Control tokens for conversations, added if the tokenizer has none of ours."""
    json: bool = False
    """Print JSON."""


def main(argv: Sequence[str]) -> None:
    """Parse, read, compare, write, print."""
    options = parse_options(ImportHuggingfaceOptions, argv, prog="jaxgpt import-huggingface")
    require_at_least(options, sequence_length=1)
    architecture, parity = import_huggingface(
        options.input, options.output, options.sequence_length, options.chat_tokens
    )
    if options.json:
        about = {"output": str(options.output), "architecture": architecture.name}
        print(json.dumps({**about, **parity._asdict()}))
        return
    print(f"imported: {architecture.name} of {options.input} to {options.output}")
    print("\n".join(parity.describe()))
