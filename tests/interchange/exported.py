"""Runs of the published families, to be exported."""

import dataclasses
from pathlib import Path

from jaxgpt.config import replace
from jaxgpt.interchange.huggingface import export_huggingface
from jaxgpt.interchange.parity import Parity
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.positions import Learned
from jaxgpt.runs.run import Run, open_run
from tests.parity.families import FAMILIES
from tests.run_folder import make_run

# Long enough for 64 tokens after a prompt.
CONFIGS = {name: family.config for name, family in FAMILIES.items()}
CONFIGS["gpt2"] = replace(CONFIGS["gpt2"], position=Learned(max_length=80))


def make_run_of(config: GptConfig, folder: Path, dataset: Path) -> Run:
    """Write a run of a model with random weights, and open it."""
    names = [field.name for field in dataclasses.fields(config)]
    make_run(folder, dataset, {3: 2.0}, **{name: getattr(config, name) for name in names})
    return open_run(folder)


def export(
    run: Run, output: Path, dtype="float32", shard_bytes: int = 10**9, step: int = 3
) -> Parity:
    """Export a step of a run."""
    return export_huggingface(run, step, output, dtype, shard_bytes)[1]
