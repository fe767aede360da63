"""Runs of the published families, to be exported, and texts to compare tokenizers by."""

import dataclasses
from pathlib import Path

import hypothesis.strategies as st

from jaxgpt.config import replace
from jaxgpt.interchange.huggingface import export_huggingface
from jaxgpt.interchange.parity import Parity
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.positions import Learned
from jaxgpt.runs.run import Run, open_run
from jaxgpt.tokenizer.sentencepiece_model import CONTROL_PIECES
from tests.parity.families import FAMILIES
from tests.run_folder import make_run

# Long enough for 64 tokens after a prompt.
CONFIGS = {name: family.config for name, family in FAMILIES.items()}
CONFIGS["gpt2"] = replace(CONFIGS["gpt2"], position=Learned(max_length=80))

_PIECES = (
    "  ",
    "\t",
    "\n",
    "\r\n",
    " " * 30,
    "\n\n\n",
    "🙂",
    "👩‍👩‍👧",
    "e\u0301",
    "\0",
    "the ",
    "\ufeff",
)
_PARTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(_PIECES),
    st.sampled_from(sorted(CONTROL_PIECES.values())),
)
TEXTS = st.lists(_PARTS, max_size=8).map("".join)


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
