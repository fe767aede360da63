"""The model card: origin, training and measurements of an exported model, for a person to read."""

from collections.abc import Mapping
from typing import Any

from jaxgpt.evaluation.objective import NextToken, Objective
from jaxgpt.finetuning.objectives import TokenObjective
from jaxgpt.model.cost import num_parameters
from jaxgpt.runs.run import Run

_CARD = """\
---
library_name: {library}
pipeline_tag: text-generation
tags:
- jaxgpt
---

# {title}

A {name} of {parameters:,} parameters, trained with jaxgpt and
exported at step {step}.

| | |
|---|---|
{rows}

## Text and chat

{use}"""


def write_card(run: Run, step: int, architecture: str, library: str, use: str) -> str:
    """Return the card of a step of a run, as Markdown.

    Args:
        run: origin of the model.
        step: which of its checkpoints.
        architecture: name that the readers of the files have for it.
        library: package or program that reads the files.
        use: Markdown on text and conversations for its users.
    """
    metadata = run.checkpoints.read_metadata(step)
    environment = run.lineage.get("environment") or {}
    rows = {
        "layers, width": f"{run.config.model.num_layers}, {run.config.model.d_model}",
        "context": f"{run.config.batch.sequence_length:,} tokens",
        "vocabulary": f"{run.tokenizer.vocab_size:,} ({run.tokenizer.kind})",
        "tokens trained on": _number(metadata.get("tokens"), ","),
        "held-out loss": _number(metadata.get("eval_loss"), ".4f", _unit(run.config.objective)),
        "held-out bits per byte": _number(metadata.get("eval_bits_per_byte"), ".4f"),
        "datasets": _datasets(run.lineage),
        "base": _base(run.lineage),
        "jaxgpt": (environment.get("packages") or {}).get("jaxgpt"),
        "commit": (environment.get("git") or {}).get("commit"),
    }
    return _CARD.format(
        title=run.directory.resolve().name,
        name=architecture,
        library=library,
        use=use,
        parameters=num_parameters(run.config.model, run.tokenizer.vocab_size),
        step=step,
        rows="\n".join(f"| {name} | {value} |" for name, value in rows.items() if value),
    )


def _unit(objective: Objective) -> str:
    """Return the unit of the loss, or the objective where its loss is a measure of its own."""
    if isinstance(objective, TokenObjective):
        return " nats per target"
    return " nats per token" if type(objective) is NextToken else f" ({type(objective).__name__})"


def _number(value: Any, form: str, unit: str = "") -> str | None:
    return f"{value:{form}}{unit}" if isinstance(value, int | float) else None


def _datasets(lineage: Mapping[str, Any]) -> str:
    datasets = (lineage.get("data") or {}).get("datasets") or []
    return ", ".join(f"`{str(each.get('fingerprint'))[:12]}`" for each in datasets)


def _base(lineage: Mapping[str, Any]) -> str | None:
    base = (lineage.get("config") or {}).get("base")
    return f"step {base['step']} of `{base['run']}`" if base else None
