"""`jaxgpt merge-adapter --checkpoint RUN --output DIR`: an adapter and its base as one model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.command_line import parse_options
from jaxgpt.runs.run import open_run
from jaxgpt.runs.tuning.merge_adapter import merge_adapter


@dataclass(frozen=True, kw_only=True)
class MergeAdapterOptions:
    """Merge the adapter of a fine-tuning run into its base: a run folder that needs no other."""

    checkpoint: str
    """Run folder of the adapter, or its URL."""
    output: Path
    """New run folder, which must be empty or not exist."""
    step: str = "latest"
    """Checkpoint of the run: latest, best (lowest validation loss), or a step's number."""
    json: bool = False
    """Print JSON."""


def main(argv: Sequence[str]) -> None:
    """Parse, merge, say where the result is."""
    options = parse_options(MergeAdapterOptions, argv, prog="jaxgpt merge-adapter")
    run = open_run(options.checkpoint, options.step)
    step = run.choose_step(options.step)
    merge_adapter(run, step, options.output)
    if options.json:
        print(json.dumps({"output": str(options.output), "step": step}))
    else:
        print(f"merged: step {step} of {run.directory} into {options.output}")
