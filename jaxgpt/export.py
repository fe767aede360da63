"""`python -m jaxgpt.export --checkpoint RUN --format huggingface --output DIR`: leave jaxgpt."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxgpt.command_line import parse_options, require_at_least, run_verb
from jaxgpt.interchange.huggingface import WeightDtype, export_huggingface
from jaxgpt.runs.run import open_run
from jaxgpt.runtime.settings import configure_runtime


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a trained model as files that transformers, vLLM and other tools read."""

    checkpoint: str
    """Run folder, or its URL; an adapter is merged into its base."""
    format: Literal["huggingface"]
    """Format of the files: huggingface (config, safetensors, tokenizer, chat template)."""
    output: Path
    """Folder to write; it must be empty or not exist, or be an earlier export."""
    step: str = "latest"
    """Checkpoint: latest, best (lowest validation loss), or a step's number."""
    dtype: WeightDtype = "float32"
    """Type of the stored weights."""
    shard_bytes: int = 4_000_000_000
    """Most bytes per file of weights."""
    json: bool = False
    """Print JSON."""


def main(argv: Sequence[str]) -> None:
    """Parse, write, compare, print."""
    options = parse_options(ExportOptions, argv, prog="jaxgpt export")
    require_at_least(options, shard_bytes=1)
    run = open_run(options.checkpoint, options.step)
    configure_runtime(run.config.runtime)
    step = run.choose_step(options.step)
    architecture, parity = export_huggingface(
        run, step, options.output, options.dtype, options.shard_bytes
    )
    if options.json:
        about = {"format": options.format, "output": str(options.output), "step": step}
        print(json.dumps({**about, "architecture": architecture.name, **parity._asdict()}))
        return
    print(f"exported: step {step} of {run.directory} as {architecture.name} to {options.output}")
    print("\n".join(parity.describe()))


if __name__ == "__main__":
    run_verb(main)
