"""`python -m jaxgpt.export --checkpoint RUN --format FORMAT --output DIR`: leave jaxgpt."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from jaxgpt.command_line import parse_options, require_at_least, run_verb
from jaxgpt.errors import UsageError
from jaxgpt.interchange.gguf.export_gguf import export_gguf
from jaxgpt.interchange.gguf.gguf_file import GgufDtype
from jaxgpt.interchange.huggingface import WeightDtype, export_huggingface
from jaxgpt.interchange.peft.export_peft import AdapterDtype, export_peft
from jaxgpt.runs.run import open_run
from jaxgpt.runtime.settings import configure_runtime

_FORMATS: dict[str, Any] = {
    "huggingface": (export_huggingface, get_args(WeightDtype)),
    "gguf": (export_gguf, get_args(GgufDtype)),
    "peft": (export_peft, get_args(AdapterDtype)),
}


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a trained model as files that transformers, vLLM, llama.cpp and other tools read."""

    checkpoint: str
    """Run folder, or its URL; an adapter is merged into its base, but for peft, and with gguf it is
    written alone, too."""
    format: Literal["huggingface", "gguf", "peft"]
    """Format of the files: huggingface (config, safetensors, tokenizer, chat template), gguf (one
    file for llama.cpp) or peft (a LoRA or DoRA adapter, and its base)."""
    output: Path
    """Folder to write; it must be empty or not exist, or be an earlier export."""
    step: str = "latest"
    """Checkpoint: latest, best (lowest validation loss), or a step's number."""
    dtype: WeightDtype | GgufDtype | None = None
    """Type of the stored weights: float32 or bfloat16 with huggingface, F32, F16, BF16 or Q8_0 with
    gguf; None for float32."""
    shard_bytes: int = 4_000_000_000
    """Most bytes per file of weights."""
    json: bool = False
    """Print JSON."""


def main(argv: Sequence[str]) -> None:
    """Parse, write, compare, print."""
    options = parse_options(ExportOptions, argv, prog="jaxgpt export")
    require_at_least(options, shard_bytes=1)
    export, dtypes = _FORMATS[options.format]
    dtype = options.dtype or dtypes[0]
    if dtype not in dtypes:
        raise UsageError(
            f"--dtype {dtype} is no type of --format {options.format}, which has "
            f"{', '.join(dtypes)}"
        )
    run = open_run(options.checkpoint, options.step)
    configure_runtime(run.config.runtime)
    step = run.choose_step(options.step)
    architecture, parity = export(run, step, options.output, dtype, options.shard_bytes)
    if options.json:
        about = {"format": options.format, "output": str(options.output), "step": step}
        print(json.dumps({**about, "architecture": architecture.name, **parity._asdict()}))
        return
    print(f"exported: step {step} of {run.directory} as {architecture.name} to {options.output}")
    print("\n".join(parity.describe()))


if __name__ == "__main__":
    run_verb(main)
